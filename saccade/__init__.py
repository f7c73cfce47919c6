"""saccade: detectors that look at a few sampled points.

Names are imported when first used, so that ``import saccade`` costs little more than torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from saccade.presets import presets

if TYPE_CHECKING:
    from saccade import compat, ops, training
    from saccade.inference.predictor import Detector
    from saccade.structures import Batch, Predictions, Targets

__all__ = ["Batch", "Detector", "Predictions", "Targets", "compat", "ops", "presets", "training"]

_HOMES = {
    "Detector": "saccade.inference.predictor",
    "Batch": "saccade.structures",
    "Predictions": "saccade.structures",
    "Targets": "saccade.structures",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in ("compat", "ops", "training"):
        return import_module(f"saccade.{name}")
    if name == "__version__":
        return version("saccade")
    raise AttributeError(f"module 'saccade' has no attribute {name!r}")
