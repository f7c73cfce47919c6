"""Large images are looked at in tiles that overlap, so that small objects are not shrunk away.

Sliced inference is Akyon, Altinuc and Temizel's (Slicing aided hyper inference and fine-tuning for
small object detection, arXiv:2202.06934, section 3). What is found in the tiles is put together in
`saccade.inference.merging`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil

from jaxtyping import UInt8
from torch import Tensor

from saccade.config import InputConfig
from saccade.data import resize_image
from saccade.inference.looking import Prepare
from saccade.inference.merging import merge
from saccade.model import Found

Tile = tuple[int, int, int, int]
"""``x0, y0, x1, y1`` in pixels of the image."""


@dataclass(frozen=True)
class Tiles:
    """Each image is shown in tiles and, unless told otherwise, as a whole too."""

    side: int
    """Of a tile in pixels; an image that is not larger is shown as it is."""
    overlap: float = 0.2
    """Least share of its side that a tile shares with the next."""
    whole: bool = True
    """Whether the whole image is shown too: objects larger than a tile are found in no tile."""

    def __post_init__(self) -> None:
        if self.side < 32:
            raise ValueError(
                f"the tile's side is {self.side} pixels: expected 32 or more, such as 800."
            )
        if not 0 <= self.overlap <= 0.9:
            raise ValueError(
                f"the overlap of tiles is {self.overlap}: expected a share of their side, 0 to "
                "0.9, such as 0.2."
            )

    def tiles(self, size: tuple[int, int]) -> list[Tile]:
        """The tiles of an image of this (height, width), row by row.

        They are of equal size, so that they share batches, and reach to every border.

        >>> Tiles(100, 0.5).tiles((80, 160))
        [(0, 0, 100, 80), (30, 0, 130, 80), (60, 0, 160, 80)]
        """
        height, width = (min(self.side, side) for side in size)
        return [
            (left, top, left + width, top + height)
            for top in self._starts(size[0])
            for left in self._starts(size[1])
        ]

    def _starts(self, side: int) -> list[int]:
        spare = side - self.side
        if spare <= 0:
            return [0]
        # Whole pixels, so that no rounding of the starts makes the overlap less.
        steps = ceil(spare / max(1, int(self.side * (1 - self.overlap))))
        return [step * spare // steps for step in range(steps + 1)]

    def views(self, size: tuple[int, int]) -> Sequence[Prepare]:
        """Every tile, resized as an image of its size is; then the whole image."""
        return [
            resize_image if tile == _whole(size) else partial(_show, tile=tile)
            for tile in self._windows(size)
        ]

    def combine(self, found: Sequence[Found], size: tuple[int, int], threshold: float) -> Found:
        """Detections that reach the threshold in their view, merged: see `merge`."""
        windows = self._windows(size)
        return found[0] if len(windows) == 1 else merge(found, windows, size, threshold)

    def _windows(self, size: tuple[int, int]) -> list[Tile]:
        tiles = self.tiles(size)
        return [*tiles, _whole(size)] if self.whole and len(tiles) > 1 else tiles


def _whole(size: tuple[int, int]) -> Tile:
    return (0, 0, size[1], size[0])


def _show(
    pixels: UInt8[Tensor, "3 H W"], config: InputConfig, tile: Tile
) -> UInt8[Tensor, "3 h w"]:
    left, top, right, bottom = tile
    return resize_image(pixels[:, top:bottom, left:right], config)
