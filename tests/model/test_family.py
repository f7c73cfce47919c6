"""Members of the family that are no kind of their own: necks, deformable convolutions, levels."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saccade.config import DetectorConfig
from saccade.model import DetectorModel
from saccade.presets import preset_config, with_neck
from saccade.recipe_config import LossConfig
from saccade.structures import Batch, Targets
from saccade.training import SetCriterion
from saccade.weights import load_weights, save_weights
from tests.conftest import small_config


def _members() -> dict[str, DetectorConfig]:
    base = small_config("two-stage")
    encoder = base.encoder
    return {
        "fpn": with_neck(base, "fpn"),
        "bifpn": with_neck(base, "bifpn"),
        "deformable convolutions": replace(
            base, backbone=replace(base.backbone, deformable_levels=(4, 5))
        ),
        "each level by itself": replace(base, encoder=replace(encoder, across_levels=False)),
        "one point": replace(base, encoder=replace(encoder, num_points=1)),
    }


@pytest.mark.parametrize("member", list(_members()))
def test_a_member_trains_and_survives_being_saved(member: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = _members()[member]
    model = DetectorModel(config)
    criterion = SetCriterion(LossConfig(), config.num_classes, config.classification)
    batch = Batch.from_images([torch.randn(3, 64, 96), torch.randn(3, 96, 64)])
    targets = [
        Targets(torch.tensor([[4.0, 8.0, 40.0, 50.0]]), torch.tensor([1]), size)
        for size in batch.sizes
    ]
    criterion.total(criterion(model(batch, targets), targets)).backward()
    silent = [name for name, each in model.named_parameters() if each.grad is None]
    assert silent == []
    save_weights(tmp_path, config, model.state_dict())
    loaded = load_weights(tmp_path)
    assert loaded.config == config
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state[name], tensor), name


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("deformable-detr-r50-fpn", "neck.pyramid"),
        ("deformable-detr-r50-bifpn", "neck.pyramid"),
        ("deformable-detr-r50-dcn-two-stage", "backbone.body.layer4.0.conv2.sampling_offsets"),
    ],
)
def test_presets_have_the_part_they_are_named_after(name: str, part: str) -> None:
    with torch.device("meta"):
        model = DetectorModel(preset_config(name))
    assert any(key.startswith(part) for key in model.state_dict())
