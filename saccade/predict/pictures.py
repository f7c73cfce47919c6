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


class Names:
    """Names for files in one folder, each given once, in small or capital letters.

    >>> names = Names()
    >>> [names.free("cat.jpg"), names.free("Cat.jpg"), names.free("cat.jpg")]
    ['cat.jpg', 'Cat-2.jpg', 'cat-3.jpg']
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}

    def free(self, name: str) -> str:
        """The name itself, or with a number if it is taken."""
        path, free, number = Path(name), name, self._numbers.get(name.casefold(), 1)
        while free.casefold() in self._taken:
            number += 1
            free = f"{path.stem}-{number}{path.suffix}"
        self._taken.add(free.casefold())
        self._numbers[name.casefold()] = number
        return free


class Pictures:
    """Draws and writes pictures in order; those begun are finished at the end of a ``with``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = Names()
        self._waiting: deque[Future[None]] = deque()
        self._pool = ThreadPoolExecutor(1, "saccade-draws")

    def draw(self, file: Path, image: Tensor, detections: "Detections") -> str:
        """Have an image drawn; returns the name of its picture.

        Raises:
            OSError: If this or an earlier picture cannot be written.
        """
        name = self._names.free(f"{file.stem}.jpg")
        job = self._pool.submit(_draw, image, detections, self._folder / name)
        self._waiting.append(job)
        while len(self._waiting) > WAITING or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()
        return name

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
            for job in self._waiting:
                job.result()


def _draw(image: Tensor, detections: "Detections", file: Path) -> None:
    height, width = image.shape[1:]
    factor = min(1.0, LARGEST_SIDE / max(height, width))
    if factor < 1:
        size = [max(1, round(side * factor)) for side in (height, width)]
        image = tv.resize(image, size, antialias=True)
        detections = replace(detections, xyxy=detections.xyxy * factor)
    save_image(draw_boxes(image, detections), file)
