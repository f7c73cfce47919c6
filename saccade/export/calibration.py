"""The images by which a detector is quantised."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from saccade.config import DetectorConfig
from saccade.data import image_suffixes, image_to_tensor, read_image, resize_image
from saccade.data.shapes import draw_shapes

MOST_IMAGES = 300
"""More calibrate nothing better: NNCF's own default."""


def calibration_images(
    config: DetectorConfig, folder: Path | None, most: int = MOST_IMAGES
) -> list[UInt8[Tensor, "1 3 H W"]]:
    """Images of a folder, resized for the detector: at most so many, spread evenly over it.

    Without a folder a few generated ones.

    Raises:
        ValueError: If the folder holds no image, or one cannot be read.
    """
    pixels = _generated() if folder is None else map(read_image, _spread(_files(folder), most))
    return [resize_image(image, config.input)[None] for image in pixels]


def _files(folder: Path) -> list[Path]:
    readable = image_suffixes()
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in readable)
    if not files:
        raise ValueError(f"{folder} holds no image to calibrate with: name a folder that does.")
    return files


def _spread(files: Sequence[Path], most: int) -> Iterator[Path]:
    count = min(len(files), most)
    return (files[index * len(files) // count] for index in range(count))


def _generated(count: int = 8) -> Iterator[UInt8[Tensor, "3 H W"]]:
    for number in range(count):
        image, _ = draw_shapes(256, 12, [number])
        yield image_to_tensor(image)
