from pathlib import Path

import pytest
import torch

from saccade import Detector
from saccade.export import own_openvino
from saccade.export.own_openvino import Precision, open_with_own_kernels
from saccade.export.runtimes import OpenVinoEngine
from tests.export.small import pixels, small_detector


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def detector() -> Detector:
    return small_detector("two-stage")


def opened(
    detector: Detector, cache: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision = "fp32"
) -> OpenVinoEngine:
    monkeypatch.setenv("SACCADE_CACHE", str(cache))
    return open_with_own_kernels(detector.config, detector.model, precision, threads=1)


def test_it_finds_the_same_in_images_of_any_size(
    detector: Detector, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened(detector, cache, monkeypatch)
    for shape in ((1, 3, 96, 128), (2, 3, 117, 95), (1, 3, 96, 128), (2, 3, 117, 95)):
        images = pixels(*shape)
        found, expected = engine(images), detector.engine(images)
        torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=2e-4)
        torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=2e-5)


@pytest.mark.slow
def test_it_is_converted_once_and_again_for_other_weights(
    detector: Detector, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(detector, cache, monkeypatch)
    kept = set(cache.iterdir())

    def refuse(*given: object) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr(own_openvino, "convert_with_kernel", refuse)
    opened(detector, cache, monkeypatch)
    assert set(cache.iterdir()) == kept
    with pytest.raises(AssertionError, match="converted again"):
        opened(small_detector("two-stage", seed=1), cache, monkeypatch)
    # What could not be finished leaves nothing behind.
    assert set(cache.iterdir()) == kept


@pytest.mark.slow
def test_eight_bits_find_about_the_same(
    detector: Detector, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        own_openvino, "calibration_images", lambda *given: [pixels(1, 3, 96, 128)] * 2
    )
    engine = opened(detector, cache, monkeypatch, "int8")
    kinds = {each.get_type_name() for each in engine.model.get_ops()}
    assert "FakeQuantize" in kinds
    images = pixels(1, 3, 96, 128)
    found, expected = engine(images), detector.engine(images)
    difference = (found.logits.sigmoid().amax(-1) - expected.logits.sigmoid().amax(-1)).abs()
    assert 0 < difference.median() < 0.05
