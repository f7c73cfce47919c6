"""Images with their boxes, drawn by another thread while the detector goes on."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from saccade.analysis.draw import draw_boxes, save_image

if TYPE_CHECKING:
    from supervision import Detections

LARGEST_SIDE = 4096
"""Larger images are drawn smaller: JPEG ends at 65,535 pixels, and viewers before."""
WAITING = 4
"""Images that may wait to be drawn."""
WAITING_BYTES = 256 * 2**20
"""That those may take; one waits in any case."""


class Names:
    """Names for files in one folder, each given once, in small or capital letters.

    >>> names = Names()
    >>> [names.free("cat.jpg"), names.free("Cat.jpg"), names.free("cat.jpg")]
    ['cat.jpg', 'Cat-2.jpg', 'cat-3.jpg']
    """

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}
        """The last number that each has got."""

    def free(self, name: str) -> str:
        """The name itself, or with a number if it is taken."""
        path, free, number = Path(name), name, self._taken.get(name.casefold(), 1)
        while free.casefold() in self._taken:
            number += 1
            free = f"{path.stem}-{number}{path.suffix}"
        self._taken[name.casefold()] = number
        self._taken.setdefault(free.casefold(), 1)
        return free


class Pictures:
    """Draws and writes pictures in order; those begun are finished at the end of a ``with``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = Names()
        self._waiting: deque[tuple[Future[None], int]] = deque()
        """With the bytes of each image."""
        self._pool = ThreadPoolExecutor(1, "saccade-draws")

    def draw(self, file: Path, image: Tensor, detections: "Detections") -> str:
        """Have an image drawn; returns the name of its picture.

        Raises:
            OSError: If this or an earlier picture cannot be written.
        """
        name = self._names.free(f"{file.stem}.jpg")
        job = self._pool.submit(_draw, image, detections, self._folder / name)
        self._waiting.append((job, image.nbytes))
        while self._waiting and (self._too_many() or self._waiting[0][0].done()):
            self._waiting.popleft()[0].result()
        return name

    def _too_many(self) -> bool:
        num_bytes = sum(each for _, each in self._waiting)
        return len(self._waiting) > WAITING or (
            len(self._waiting) > 1 and num_bytes > WAITING_BYTES
        )

    def __enter__(self) -> "Pictures":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True)
        if error is None:
            for job, _ in self._waiting:
                job.result()


def _draw(image: Tensor, detections: "Detections", file: Path) -> None:
    height, width = image.shape[1:]
    factor = min(1.0, LARGEST_SIDE / max(height, width))
    if factor < 1:
        size = [max(1, round(side * factor)) for side in (height, width)]
        image = tv.resize(image, size, antialias=True)
        detections = replace(detections, xyxy=detections.xyxy * factor)
    save_image(draw_boxes(image, detections), file)
