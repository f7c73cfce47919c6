"""Frozen parts: no gradient, no statistics, and an error for what does not exist."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from saccade.config_parts import BackboneConfig
from saccade.model import DetectorModel
from tests.conftest import small_config


@pytest.fixture
def detector() -> DetectorModel:
    return DetectorModel(small_config("two-stage"))


def test_a_frozen_part_has_no_gradients_and_others_do(detector: DetectorModel) -> None:
    detector.freeze(("backbone", "encoder.layers.0"))
    frozen = {name for name, each in detector.named_parameters() if not each.requires_grad}
    expected = {
        name
        for name, _ in detector.named_parameters()
        if name.startswith(("backbone.", "encoder.layers.0."))
    }
    assert frozen == expected
    assert len(frozen) < len(list(detector.parameters()))


def test_batch_norms_of_frozen_parts_count_nothing_in_any_mode(detector: DetectorModel) -> None:
    images = torch.randn(2, 3, 64, 64)
    detector.freeze(["backbone.body.stem"])
    detector.train()
    norms = [m for m in detector.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    stem = set(detector.backbone.body.stem.modules())
    assert [not norm.training for norm in norms] == [norm in stem for norm in norms]
    before = [norm.running_mean.clone() for norm in norms]
    detector.backbone(images)
    same = [torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True)]
    assert same == [norm in stem for norm in norms]
    detector.eval()
    assert not any(module.training for module in detector.modules())


def test_a_copy_stays_frozen(detector: DetectorModel) -> None:
    detector.freeze(["backbone"])
    twin = copy.deepcopy(detector).train()
    assert not any(
        module.training for module in twin.backbone.modules() if isinstance(module, nn.BatchNorm2d)
    )


def test_stages_that_the_backbone_freezes_by_itself_may_be_named_too() -> None:
    config = small_config("learned")
    backbone = BackboneConfig(name="resnet18", levels=(4, 5))
    model = DetectorModel(replace(config, backbone=backbone))
    model.freeze(["backbone"])
    assert not any(each.requires_grad for each in model.backbone.parameters())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            ["bakbone"],
            r'^freeze names "bakbone", which this detector does not have: expected some of '
            r"backbone neck positions encoder queries denoising decoder, or modules within these",
        ),
        (
            ["encoder.layer.0"],
            r'"encoder.layer.0", which this detector does not have: expected some of '
            r"encoder\.layers\.$",
        ),
        (["decoder.norm"], r'"decoder.norm", which this .* of decoder.layers decoder.heads\.$'),
        ([".*"], r'^freeze names "\.\*", which this detector does not have'),
        (
            ["backbone", "neck", "positions", "encoder", "queries", "denoising", "decoder"],
            r"decoder, and nothing is left to train: leave out at least one\.$",
        ),
    ],
)
def test_what_cannot_be_frozen_is_told(
    parts: list[str], message: str, detector: DetectorModel
) -> None:
    with pytest.raises(ValueError, match=message):
        detector.freeze(parts)
    assert all(each.requires_grad for each in detector.parameters())
    assert detector.frozen == ()
