"""The first run of a detector, before anybody waits for it."""

import torch

from saccade.data.transforms import resized_size
from saccade.serve.served import Served

_USUAL = (480, 640)
"""Height and width of an image, in pixels."""


def warm_up(served: Served) -> None:
    """Run a grey image: kernels are compiled and memory is claimed.

    Raises:
        ValueError: If the detector gives numbers that are none.
    """
    config = served.engine.config
    size = resized_size(_USUAL, config.input.short_side, config.input.max_side)
    with torch.inference_mode():
        predictions = served.engine(torch.full((1, 3, *size), 127, dtype=torch.uint8))
    if not (predictions.logits.isfinite().all() and predictions.boxes.isfinite().all()):
        raise ValueError(
            f"{served.name} gives infinite scores or boxes, or none at all, for a grey image: are "
            "its weights whole?"
        )
