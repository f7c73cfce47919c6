"""The type in which detections leave the library: `supervision.Detections`."""

import warnings
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from saccade.boxes import fractions_to_pixels
from saccade.model import Found

if TYPE_CHECKING:
    from supervision import Detections


@cache
def supervision() -> ModuleType:
    """The supervision package, imported when detections are made or drawn."""
    with warnings.catch_warnings():
        # It says at import that it would draw faster with OpenCV, which nobody here needs.
        warnings.filterwarnings("ignore", message="OpenCV", category=UserWarning)
        import supervision as module
    return module


def to_detections(
    found: Found, size: tuple[int, int], threshold: float, class_names: Sequence[str]
) -> "Detections":
    """What was found with at least this score, as `Detector.predict` returns it.

    Args:
        found: In one image.
        size: (height, width) of the image, in pixels.
        threshold: Lowest score that is kept.
        class_names: What the labels stand for.
    """
    sure = found.scores >= threshold
    labels = found.labels[sure].cpu().numpy()
    return supervision().Detections(
        xyxy=fractions_to_pixels(found.boxes[sure], size).cpu().numpy(),
        confidence=found.scores[sure].cpu().numpy(),
        class_id=labels,
        data={"class_name": np.array(class_names)[labels]},
    )


def check_thresholds(threshold: float, top_k: int, batch_size: int = 1) -> None:
    """Refuse what no detector can be asked.

    Raises:
        ValueError: If the threshold is not in [0, 1], or one of the others is below 1.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}: expected a score between 0 and 1.")
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}: expected at least one detection per image.")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: expected at least one image.")
