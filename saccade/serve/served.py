"""What is served."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from saccade.inference import Detector
from saccade.inference.engine import Engine

Look = Callable[[Detector, Tensor, int], Mapping[str, Any]]
"""Of a detector, an image (uint8 RGB [3, H, W]) and how many objects: where their queries looked,
as plain values for JSON."""
LookFromPixel = Callable[[Detector, Tensor, float, float], Mapping[str, Any]]
"""Of a detector, an image and a pixel's x and y: where its encoder looks from there."""


@dataclass(frozen=True)
class Served:
    """A detector that is served."""

    name: str
    engine: Engine
    detector: Detector | None = None
    """What tells where it looked; None where another runtime than torch runs it."""
