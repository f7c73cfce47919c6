"""SIGTERM and Ctrl-C end a run only after it is saved."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

AGAIN_AFTER = 1.0
"""Seconds after which a second SIGINT is meant: torchrun passes on a Ctrl-C that the terminal has
sent to its processes, too."""


class Stopped(KeyboardInterrupt):
    """A run was asked to stop, and has been saved."""

    def __init__(self, signal_name: str, status: int, folder: Path) -> None:
        super().__init__(f"stopped by {signal_name}; everything is saved in {folder}.")
        self.status = status
        """The exit status that shells give to this signal: the run is not complete."""


class StopRequests:
    """Notes SIGTERM, as schedulers send it before they take a machine away, and the first SIGINT.

    A context manager: afterwards, and from the second SIGINT on that comes more than a second after
    the first, signals do what they did before.
    Only a process's main thread receives signals; elsewhere nothing is noted.
    """

    def __init__(self, folder: Path) -> None:
        """Note nothing yet.

        Args:
            folder: Where the run is saved, for the message.
        """
        self.folder = folder
        self.received: signal.Signals | None = None
        self._saved = False
        self._interrupted = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """For what comes after the run is saved: a request does not wait for the end of it."""
        self._saved = True
        try:
            if self.received is not None:
                raise self.stopped()
            yield
        finally:
            self._saved = False

    def stopped(self) -> Stopped:
        """What to raise once the run is saved; the request may be that of another process."""
        number = self.received or signal.SIGTERM
        return Stopped(number.name, 128 + number, self.folder)

    def _note(self, number: int, _: FrameType | None) -> None:
        again = number == self.received == signal.SIGINT
        if again and time.monotonic() - self._interrupted < AGAIN_AFTER:
            return
        if again:
            signal.signal(number, self._before[signal.SIGINT])
            signal.raise_signal(number)
        self.received = signal.Signals(number)
        self._interrupted = time.monotonic()
        if self._saved:
            raise self.stopped()
