"""What runs start from, and what freezing leaves alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from saccade.inference import Detector
from saccade.model import DetectorModel
from saccade.recipes import for_detector
from saccade.run_config import RunConfig
from saccade.starting import new_detector
from saccade.structures import Batch, Targets
from saccade.training.loss_model import LossModel
from saccade.training.losses import SetCriterion
from saccade.training.optimizer import build_optimizer
from tests.conftest import small_config


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    """A run that starts from a detector of cats and birds."""
    model = small_config("two-stage")
    other = replace(model, class_names=("cat", "bird"))
    Detector(other, DetectorModel(other)).save_pretrained(tmp_path / "known")
    return replace(for_detector(model), weights=str(tmp_path / "known"))


@pytest.mark.parametrize("layer_decay", [1.0, 0.8])
def test_frozen_parts_keep_their_bits_through_training(run: RunConfig, layer_decay: float) -> None:
    parts = ("backbone", "encoder", "decoder.layers.0")
    run = replace(run, freeze=parts, optimizer=replace(run.optimizer, layer_decay=layer_decay))
    model = new_detector(run).model.train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    criterion = SetCriterion(run.loss, 2)
    losses_of = LossModel(model, criterion)
    optimizer = build_optimizer(model, run.optimizer)
    targets = [
        Targets(
            labels=torch.tensor([index]),
            boxes=torch.tensor([[8.0, 8, 40, 40]]),
            size=(64, 64),
            image_id=index,
        )
        for index in (0, 1)
    ]
    batch = Batch.from_images([torch.randn(3, 64, 64) for _ in targets])
    for _ in range(2):
        optimizer.zero_grad()
        criterion.total(losses_of(batch, targets)).backward()
        optimizer.step()
    after = model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    frozen = {key for key in before if key.startswith(tuple(f"{part}." for part in parts))}
    assert not changed & frozen
    assert any(key.startswith("neck.") for key in changed)
    assert any(key.startswith("decoder.heads.class_heads.2") for key in changed)
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (name in frozen)
        assert (parameter in optimizer.state) == (name not in frozen)


def test_classes_of_other_weights_are_taken_by_name(run: RunConfig) -> None:
    detector = new_detector(run)
    assert detector.report is not None
    assert (detector.report.kept, detector.report.new) == (("cat",), ("dog",))
    assert "Classes: 1 of 2 kept by name: cat; new, to be trained: dog; dropped: bird." in str(
        detector.report
    )


def test_a_resumed_run_does_not_look_for_its_weights(run: RunConfig) -> None:
    assert new_detector(replace(run, weights="gone.pth", freeze=("neck",)), resumed=True)
    with pytest.raises(ValueError, match=r"^gone\.pth does not exist"):
        new_detector(replace(run, weights="gone.pth"))


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (("decoder",), r"^freeze names decoder, but decoder.heads.class_heads.0.weight is not, or"),
        (("denoising",), r"^freeze names denoising, but denoising.labels.weight is not, or not"),
        (("neckk",), r'^freeze names "neckk", which this detector does not have'),
    ],
)
def test_what_must_be_trained_is_not_frozen(
    freeze: tuple[str, ...], message: str, run: RunConfig
) -> None:
    with pytest.raises(ValueError, match=message):
        new_detector(replace(run, freeze=freeze))


def test_random_weights_are_not_frozen_but_those_of_timm_may_be(
    run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = replace(run, weights=None)
    with pytest.raises(ValueError, match=r"^freeze names backbone, which has random weights with"):
        new_detector(replace(random, freeze=("backbone",)))
    backbone = replace(run.model.backbone, name="resnet18")
    model = replace(run.model, backbone=backbone)
    build = DetectorModel.__init__
    # The download of weights is not the matter here.
    monkeypatch.setattr(
        DetectorModel, "__init__", lambda self, config, pretrained=False: build(self, config)
    )
    timm = replace(random, model=model, pretrained_backbone=True)
    assert new_detector(replace(timm, freeze=("backbone",))).model.frozen == ("backbone",)
    with pytest.raises(ValueError, match="freeze names neck, which has random weights"):
        new_detector(replace(timm, freeze=("neck",)))


def test_a_first_stage_of_other_classes_may_be_frozen(run: RunConfig) -> None:
    """Its channel 0, the only one that is used, is the file's."""
    model = new_detector(replace(run, freeze=("queries",))).model
    assert isinstance(model.queries, nn.Module)
    assert not any(each.requires_grad for each in model.queries.parameters())
