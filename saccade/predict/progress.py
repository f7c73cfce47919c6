"""How far a prediction is: a bar on a terminal, a line now and then in a log."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

PRINT_EVERY_SECONDS = 60.0
"""Where no terminal can draw a bar."""


class Bar:
    """Images done, images per second and the time left."""

    def __init__(self, total: int | None, console: Console) -> None:
        """Begin.

        Args:
            total: Images; None if nobody knows.
            console: Where it is shown.
        """
        self.done = 0
        self._total = "" if total is None else f" of {total}"
        self._console = console
        self._started = self._printed = time.perf_counter()
        self._progress = Progress(
            TextColumn("predicting"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=total, rate="")

    @property
    def rate(self) -> str:
        """Images per second so far."""
        seconds = time.perf_counter() - self._started
        return f"{self.done / max(seconds, 1e-9):.3g} images/s"

    def advance(self, images: int = 1) -> None:
        """Some more images are done."""
        self.done += images
        self._progress.update(self._task, advance=images, rate=self.rate)
        now = time.perf_counter()
        if not self._console.is_terminal and now - self._printed >= PRINT_EVERY_SECONDS:
            self._printed = now
            self._console.print(f"{self.done}{self._total} images, {self.rate}")

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
