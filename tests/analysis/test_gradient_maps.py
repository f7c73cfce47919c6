from dataclasses import replace

import pytest
import torch
from torch import Tensor

from saccade.analysis.gradient_maps import OUTPUTS, gradient_maps, outputs_of
from saccade.config import DetectorConfig
from saccade.inference import Detector
from saccade.model import DetectorModel
from saccade.structures import Batch
from tests.conftest import small_config


def image() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8, generator=generator)


def detector_of(config: DetectorConfig) -> Detector:
    torch.manual_seed(0)
    model = DetectorModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return Detector(replace(config, input=replace(config.input, short_side=48, max_side=64)), model)


@pytest.mark.parametrize("kind", ["learned", "detr"])
def test_they_are_what_happens_when_pixels_change(kind: str) -> None:
    config = small_config(kind)
    # With refinement, boxes between the layers would be constants to the gradient alone.
    config = replace(config, decoder=replace(config.decoder, refined=False))
    detector = detector_of(config)
    detector.model.double()
    queries, labels = torch.tensor([2, 7]), torch.tensor([1, 0])
    maps = gradient_maps(detector, image(), queries, labels)
    assert maps.shape == (2, len(OUTPUTS), 48, 64)
    mean, std = (
        torch.tensor(each, dtype=torch.float64)[:, None, None]
        for each in (config.input.mean, config.input.std)
    )

    def outputs(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            predictions = detector.model(Batch.from_images([(pixels - mean) / std]))
        return outputs_of(predictions, config.classification, queries, labels)

    pixels = image().double() / 255
    for row, column in ((3, 5), (20, 30), (47, 63)):
        changes = []
        for channel in range(3):
            step = torch.zeros_like(pixels)
            step[channel, row, column] = 1e-5
            changes.append((outputs(pixels + step) - outputs(pixels - step)) / 2e-5)
        expected = torch.stack(changes).norm(dim=0)
        assert (expected > 0).all()
        torch.testing.assert_close(maps[:, :, row, column], expected, rtol=1e-3, atol=1e-10)


def test_every_kind_of_detector_has_them_and_gets_no_gradients(kind: str) -> None:
    detector = detector_of(small_config(kind))
    done = []
    maps = gradient_maps(
        detector, image(), torch.tensor([0]), torch.tensor([1]), lambda: done.append(1)
    )
    assert maps.shape == (1, 5, 48, 64)
    assert maps.isfinite().all()
    assert (maps.amax((-1, -2)) > 0).any()
    assert len(done) == 5
    assert all(parameter.grad is None for parameter in detector.model.parameters())


def test_no_objects_have_no_maps() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert gradient_maps(detector_of(small_config("detr")), image(), nothing, nothing).shape == (
        0,
        5,
        48,
        64,
    )
