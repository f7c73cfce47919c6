"""How the detector is shown an image: as a whole, in tiles, or in several views."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from jaxtyping import UInt8
from torch import Tensor

from saccade.config import InputConfig
from saccade.data import resize_image
from saccade.data.transforms import check_size
from saccade.inference.augmented import View, fuse
from saccade.model import Found

Prepare = Callable[[Tensor, InputConfig], Tensor]
"""From an image, uint8 RGB [3, H, W], to what the detector is shown, uint8 RGB [3, h, w]."""


class Looking(Protocol):
    """A way to look at images."""

    def views(self, size: tuple[int, int]) -> Sequence[Prepare]:
        """What the detector is shown of an image of this (height, width) in pixels."""

    def combine(self, found: Sequence[Found], size: tuple[int, int], threshold: float) -> Found:
        """What is found in the image, best first, from what was found in each view.

        Args:
            found: Boxes are fractions of their view.
            size: (height, width) of the image in pixels.
            threshold: Lowest score that will be reported.

        Returns:
            Boxes are fractions of the image.
        """


class WholeImage:
    """Each image is shown as it is."""

    def views(self, size: tuple[int, int]) -> Sequence[Prepare]:
        """The resized image."""
        del size
        return [resize_image]

    def combine(self, found: Sequence[Found], size: tuple[int, int], threshold: float) -> Found:
        """What was found."""
        del size, threshold
        return found[0]


@dataclass(frozen=True)
class SeveralViews:
    """Test-time augmentation: each image is shown at several sizes and flipped."""

    of: tuple[View, ...]
    top_k: int = 100
    """Most detections of all views together."""

    def views(self, size: tuple[int, int]) -> Sequence[Prepare]:
        """The image resized and flipped."""
        del size
        return [view.resize for view in self.of]

    def combine(self, found: Sequence[Found], size: tuple[int, int], threshold: float) -> Found:
        """Boxes of one object are fused; see `saccade.inference.augmented.fuse`."""
        del size, threshold
        pairs = zip(self.of, found, strict=True)
        return fuse([replace(one, boxes=view.back(one.boxes)) for view, one in pairs], self.top_k)


@dataclass(frozen=True, eq=False)
class Shown:
    """An image, ready to be looked at."""

    size: tuple[int, int]
    """(height, width) in pixels."""
    views: Iterable[Tensor]
    """Prepared; made one by one where there are several, since they may take much memory."""
    num_views: int
    pixels: Tensor | None
    """The image itself where it will be drawn on: uint8 RGB [3, H, W]."""

    @property
    def num_bytes(self) -> int:
        """About what it takes: the pixels while it is read, and the views that are made already."""
        made = self.views if isinstance(self.views, list) else []
        return 3 * self.size[0] * self.size[1] + sum(view.nbytes for view in made)


def show(
    pixels: UInt8[Tensor, "3 H W"], config: InputConfig, looking: Looking, keep: bool = False
) -> Shown:
    """Prepare an image.

    Args:
        pixels: RGB, values in [0, 255].
        config: The detector's input.
        looking: What the detector is shown of it.
        keep: Keep the pixels, to be drawn on.

    Raises:
        ValueError: If the image is so narrow that it would stay enormous.
    """
    size = (pixels.shape[1], pixels.shape[2])
    # Here, since several views are made only when nobody counts an image as unreadable any more.
    check_size(size, config)
    views = looking.views(size)
    prepared: Iterable[Tensor] = (prepare(pixels, config) for prepare in views)
    if len(views) == 1:
        prepared = list(prepared)
    return Shown(size, prepared, len(views), pixels if keep else None)
