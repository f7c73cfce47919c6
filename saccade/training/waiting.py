"""How long a run waits for its images, and what to do about it."""

import os
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

LARGEST_SHARE = 0.1
"""Of the time of training: more is warned of."""
LEAST_SECONDS = 30.0
"""Of training before it is judged: workers take a while to start."""


class Waiting:
    """Measures a loader from outside: the time until it hands over the next batch."""

    def __init__(self, num_workers: int) -> None:
        """Nothing has been waited for yet.

        Args:
            num_workers: Processes that read images, for the advice.
        """
        self.num_workers = num_workers
        self.waited = 0.0
        """Seconds, of the batches that were counted."""
        self.trained = 0.0
        """Seconds of training, waiting included."""
        self.said = False
        self._last = 0.0

    def timed(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The same batches; how long each took to come is noted."""
        started = time.perf_counter()
        iterator = iter(batches)
        while True:
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._last += time.perf_counter() - started
            yield batch
            started = time.perf_counter()

    def count(self, seconds: float) -> None:
        """Count the last batch, whose step took so many seconds with its waiting; 0: forget it."""
        if seconds:
            self.waited += min(self._last, seconds)
            self.trained += seconds
        self._last = 0.0

    @property
    def share(self) -> float:
        """Of the time of training, 0 to 1."""
        return self.waited / self.trained if self.trained else 0.0

    def warning(self) -> str | None:
        """What to warn of, once."""
        if self.said or self.trained < LEAST_SECONDS or self.share <= LARGEST_SHARE:
            return None
        self.said = True
        return (
            f"training waits {100 * self.share:.0f} % of its time for images: they are read by "
            f"{self.num_workers} processes (num_workers) beside each of training, on "
            f"{os.cpu_count() or 1} processors; try more, or store smaller images."
        )
