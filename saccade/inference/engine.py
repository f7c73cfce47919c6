"""What runs a detector on images that are of its size already, whichever runtime it is."""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import UInt8
from torch import Tensor

from saccade.config import DetectorConfig
from saccade.data import normalise, resize_image
from saccade.model import DetectorModel, Found, select
from saccade.structures import Batch, Predictions


@runtime_checkable
class Engine(Protocol):
    """A detector in some runtime: torch here, others in `saccade.export`."""

    @property
    def config(self) -> DetectorConfig:
        """The detector's: its classes, and how images are resized for it."""

    def __call__(self, images: UInt8[Tensor, "B 3 H W"]) -> Predictions:
        """Detect the objects of resized RGB images of one size; float32, on the CPU or a device."""


class TorchEngine:
    """A detector as torch runs it, on the device of its weights."""

    def __init__(self, config: DetectorConfig, model: DetectorModel) -> None:
        self.config = config
        self.model = model

    @torch.inference_mode()
    def __call__(self, images: UInt8[Tensor, "B 3 H W"]) -> Predictions:
        """Normalise on the device and detect."""
        device = next(self.model.parameters()).device
        normalised = normalise(images.to(device), self.config.input)
        size = (images.shape[2], images.shape[3])
        mask = torch.zeros(len(images), *size, dtype=torch.bool, device=device)
        return self.model(Batch(normalised, mask, (size,) * len(images)))


def detect(
    engine: Engine,
    images: Sequence[UInt8[Tensor, "3 _ _"]],
    top_k: int = 100,
    batch_size: int = 1,
) -> list[Found]:
    """What is found in each image, best first; boxes are fractions of it.

    Images share a batch with those that are resized to the same size, and with no others: padding
    would change what convolutions and attention see near the border, and so the result with the
    neighbours in the batch.

    Args:
        engine: Runs the detector.
        images: RGB, values in [0, 255], of any sizes.
        top_k: Most detections per image.
        batch_size: Most images that are run together.
    """
    resized = [resize_image(image, engine.config.input) for image in images]
    found: dict[int, Found] = {}
    for indices in same_size_batches([tuple(image.shape[1:]) for image in resized], batch_size):
        predictions = engine(torch.stack([resized[index] for index in indices]))
        selected = select(predictions, engine.config.classification, top_k)
        found.update(zip(indices, selected, strict=True))
    return [found[index] for index in range(len(images))]


def same_size_batches(sizes: Sequence[tuple[int, ...]], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of one size each.

    >>> list(same_size_batches([(2, 3), (4, 4), (2, 3), (2, 3)], 2))
    [[0, 2], [3], [1]]
    """
    of_size: dict[tuple[int, ...], list[int]] = {}
    for index, size in enumerate(sizes):
        of_size.setdefault(size, []).append(index)
    for indices in of_size.values():
        for start in range(0, len(indices), batch_size):
            yield indices[start : start + batch_size]
