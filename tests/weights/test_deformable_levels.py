"""Weights of plain convolutions in detectors whose convolutions are deformable."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from saccade.config import DetectorConfig
from saccade.inference import Detector
from saccade.model import DetectorModel
from saccade.presets import with_deformable_convolutions
from saccade.structures import Batch
from saccade.weights import load, load_weights, save_official, save_weights
from saccade.weights.adapt import adapt, with_deformable_levels

PLAIN, DEFORMABLE = "deformable-detr-r50-two-stage", "deformable-detr-r50-dcn-two-stage"


@pytest.fixture
def plain(small_config: Callable[..., DetectorConfig]) -> DetectorConfig:
    return small_config(PLAIN)


@pytest.fixture
def state(plain: DetectorConfig) -> dict[str, Tensor]:
    torch.manual_seed(4)
    return DetectorModel(plain).state_dict()


@pytest.fixture
def small_preset(
    small_config: Callable[..., DetectorConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "preset_config", small_config)


@pytest.mark.usefixtures("small_preset")
@pytest.mark.parametrize("official", [True, False])
def test_plain_weights_make_the_same_detector_with_deformable_convolutions(
    official: bool, plain: DetectorConfig, state: dict[str, Tensor], tmp_path: Path
) -> None:
    source = tmp_path / ("plain.pth" if official else "plain")
    (save_official if official else save_weights)(source, plain, state)
    deformable = Detector.from_pretrained(source, preset=DEFORMABLE)
    assert deformable.config == with_deformable_convolutions(plain)
    batch = Batch.from_images([torch.randn(3, 64, 96), torch.randn(3, 96, 64)])
    with torch.no_grad():
        expected = Detector.from_pretrained(source).model(batch)
        found = deformable.model(batch)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-4, atol=1e-5)
    report = deformable.report
    assert report is not None
    assert report.loaded == len(state)
    added = deformable.model.state_dict().keys() - state.keys()
    assert set(report.added) == added
    assert all("sampling_offsets" in name for name in added)
    assert f"Not in the file, {len(added)} tensors: backbone." in str(report)


@pytest.mark.usefixtures("small_preset")
def test_classes_are_adapted_beside(
    plain: DetectorConfig, state: dict[str, Tensor], tmp_path: Path
) -> None:
    save_weights(tmp_path, plain, state)
    loaded = load_weights(tmp_path, class_names=["dog", "nut"], preset=DEFORMABLE)
    assert loaded.config.backbone.deformable_levels == (3, 4, 5)
    assert (loaded.report.kept, loaded.report.new) == (("dog",), ("nut",))
    assert loaded.report.added
    DetectorModel(loaded.config).load_state_dict(loaded.state)


@pytest.mark.usefixtures("small_preset")
def test_deformable_weights_do_not_become_plain(plain: DetectorConfig, tmp_path: Path) -> None:
    config = with_deformable_convolutions(plain)
    save_weights(tmp_path, config, DetectorModel(config).state_dict())
    with pytest.raises(ValueError, match=r'deformable_levels \(3, 4, 5\), but preset "deform'):
        load_weights(tmp_path, preset=PLAIN)
    assert load_weights(tmp_path, preset=DEFORMABLE).report.added == ()


def test_deformable_weights_that_lack_their_offsets_are_damaged(
    plain: DetectorConfig, state: dict[str, Tensor], tmp_path: Path
) -> None:
    save_weights(tmp_path, with_deformable_convolutions(plain), state)
    with pytest.raises(ValueError, match=r"lacks \d+ of \d+ tensors, backbone.*sampling_offsets"):
        load_weights(tmp_path)


def test_only_missing_levels_of_one_kind_are_added(plain: DetectorConfig) -> None:
    one, three = (replace(plain.backbone, deformable_levels=levels) for levels in ((5,), (3, 4, 5)))
    last = replace(plain, backbone=one)
    assert with_deformable_levels(last, three).backbone == three
    names = adapt(last, DetectorModel(last).state_dict(), with_deformable_levels(last, three)).added
    assert names
    assert all(".layer2." in name or ".layer3." in name for name in names)
    assert with_deformable_levels(last, plain.backbone) == last
    assert with_deformable_levels(last, replace(three, modulated=False)) == last
    assert with_deformable_levels(last, replace(one, deformable_levels=(3, 4))) == last
