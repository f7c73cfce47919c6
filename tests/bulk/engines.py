"""An engine that ends a process once, in the middle of its work."""

import os
import signal
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from saccade.config import DetectorConfig
from saccade.engines import open_engine as open_real_engine
from saccade.inference.engine import Engine
from saccade.structures import Predictions


class Fatal:
    """Kills a process when it is asked for the fifth time, if that has not happened before."""

    def __init__(self, engine: Engine, marker: Path, victim: int | None) -> None:
        self._engine = engine
        self._marker = marker
        self._victim = victim
        self._left = 4

    @property
    def config(self) -> DetectorConfig:
        return self._engine.config

    def __call__(self, images: UInt8[Tensor, "B 3 H W"]) -> Predictions:
        self._left -= 1
        if self._left < 0 and not self._marker.exists():
            self._marker.touch()
            os.kill(self._victim or os.getpid(), signal.SIGKILL)
            # Whoever has lost the driver is ended by Ray, in the middle of its shard.
            signal.pause()
        return self._engine(images)


def open_fatal_engine(*arguments: Any, marker: Path, victim: int | None) -> Fatal:
    """What `saccade.engines.open_engine` opens, but fatal to `victim`, or to its own process."""
    return Fatal(open_real_engine(*arguments), marker, victim)
