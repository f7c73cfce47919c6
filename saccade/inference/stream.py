"""Any number of images through a detector: in batches of one size, answered in order."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from saccade.inference.engine import Engine
from saccade.inference.looking import Looking, Shown
from saccade.inference.reading import Unreadable
from saccade.inference.wanted import Wanted
from saccade.model import Found

Key = TypeVar("Key")

WAITING_BATCHES = 4
"""Images that wait for others of their size, in batches."""
WAITING_BYTES = 512 * 2**20
"""That those images may take, before batches run that are not full."""


@dataclass(frozen=True, eq=False)
class Seen(Generic[Key]):
    """An image that was looked at."""

    key: Key
    shown: Shown
    found: Found
    """On the CPU; boxes are fractions of the image."""


@dataclass(frozen=True, eq=False)
class NotSeen(Generic[Key]):
    """An image that could not be read."""

    key: Key
    error: Unreadable


@dataclass(eq=False)
class _Waiting(Generic[Key]):
    key: Key
    shown: Shown
    found: dict[int, Found] = field(default_factory=dict)
    """By the number of the view."""

    @property
    def done(self) -> bool:
        return len(self.found) == self.shown.num_views


@dataclass(frozen=True, eq=False)
class _View(Generic[Key]):
    image: _Waiting[Key]
    number: int
    pixels: Tensor


class _Batches(Generic[Key]):
    """Views that wait for others of their size."""

    def __init__(self, engine: Engine, wanted: Wanted, batch_size: int) -> None:
        self._engine = engine
        self._wanted = wanted
        self._batch_size = batch_size
        self._of_size: dict[tuple[int, ...], list[_View[Key]]] = {}

    def add(self, view: _View[Key]) -> None:
        size = tuple(view.pixels.shape)
        batch = self._of_size.setdefault(size, [])
        batch.append(view)
        if len(batch) >= self._batch_size:
            self._run(size)

    def finish(self, image: _Waiting[Key]) -> None:
        """Run whatever holds a view of this image, full or not."""
        holding = [
            size
            for size, batch in self._of_size.items()
            if any(view.image is image for view in batch)
        ]
        for size in holding:
            self._run(size)

    def _run(self, size: tuple[int, ...]) -> None:
        batch = self._of_size.pop(size)
        predictions = self._engine(torch.stack([view.pixels for view in batch]))
        chosen = self._wanted.choose(predictions, self._engine.config.classification)
        for view, found in zip(batch, chosen, strict=True):
            view.image.found[view.number] = found


def look_at_all(
    engine: Engine,
    images: Iterable[tuple[Key, Shown | Unreadable]],
    looking: Looking,
    wanted: Wanted,
    batch_size: int = 1,
    most_bytes: int = WAITING_BYTES,
) -> Iterator[Seen[Key] | NotSeen[Key]]:
    """Look at images, in batches of those whose prepared size is the same.

    What is found does not depend on the batch size, within rounding, since no image is padded. An
    image of a rare size does not wait for ever: at most `WAITING_BATCHES` batches of images wait.

    Args:
        engine: Runs the detector.
        images: Prepared by `saccade.inference.looking.show`, each with its key; or why it cannot
            be read.
        looking: The way they were prepared.
        wanted: What of the detections is kept.
        batch_size: Most views that are run together.
        most_bytes: That images may take which wait for others of their size.

    Yields:
        What was found in each, or why it was not looked at, in the order of `images`.
    """
    waiting: deque[_Waiting[Key] | NotSeen[Key]] = deque()
    batches: _Batches[Key] = _Batches(engine, wanted, batch_size)

    def answers() -> Iterator[Seen[Key] | NotSeen[Key]]:
        while waiting and (isinstance(waiting[0], NotSeen) or waiting[0].done):
            first = waiting.popleft()
            if isinstance(first, NotSeen):
                yield first
                continue
            views = [first.found[number] for number in range(first.shown.num_views)]
            found = looking.combine(views, first.shown.size, wanted.threshold)
            yield Seen(first.key, first.shown, found)

    for key, shown in images:
        if isinstance(shown, ValueError | OSError):
            waiting.append(NotSeen(key, shown))
        else:
            image = _Waiting(key, shown)
            waiting.append(image)
            for number, pixels in enumerate(shown.views):
                batches.add(_View(image, number, pixels))
        yield from answers()
        while len(waiting) > WAITING_BATCHES * batch_size or _num_bytes(waiting) > most_bytes:
            _finish_first(waiting, batches)
            yield from answers()
    while waiting:
        _finish_first(waiting, batches)
        yield from answers()


def _finish_first(waiting: deque[_Waiting[Key] | NotSeen[Key]], batches: _Batches[Key]) -> None:
    first = waiting[0]
    # What could not be read is never first: it has been answered.
    assert isinstance(first, _Waiting)
    batches.finish(first)


def _num_bytes(waiting: Iterable[_Waiting[Key] | NotSeen[Key]]) -> int:
    return sum(image.shown.num_bytes for image in waiting if isinstance(image, _Waiting))
