"""The images with the most errors, drawn with what was found and what is marked."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torchvision.transforms.v2 import functional as tv

from saccade.analysis.draw import Pixels, draw_boxes
from saccade.data.images import read_image
from saccade.evaluation.errors import KINDS, Errors, image_weights
from saccade.evaluation.matched import Flags, Floats
from saccade.inference.detections import supervision

LARGEST_SIDE = 900
"""Larger images are shrunk for the report, in pixels."""
RIGHT, WRONG, CROWD = 2, 0, 7
"""Places in `saccade.analysis.draw.COLOURS`: green, red and brown."""


def worst_images(errors: Errors, count: int) -> list[tuple[int, float]]:
    """Ids and weights of the images with the heaviest errors: see `image_weights`."""
    weights = image_weights(errors)
    return sorted(weights.items(), key=lambda item: (-item[1], item[0]))[:count]


def draw_errors(errors: Errors, names: Sequence[str], image: int, file: Path) -> Pixels:
    """What was found at the left, what is marked at the right; errors are red and named.

    Args:
        errors: Of the detections to be seen.
        names: Of the categories.
        image: Its id.
        file: Its file.

    Returns:
        [H, W, 3], RGB.

    Raises:
        OSError: If the file is missing.
        ValueError: If it is broken.
    """
    matched = errors.matched
    found, objects = matched.found, matched.objects
    pixels = read_image(file)
    scale = min(1.0, LARGEST_SIDE / max(pixels.shape[1:]))
    size = [max(1, round(side * scale)) for side in pixels.shape[1:]]
    pixels = tv.resize(pixels, size, antialias=True)

    def panel(boxes: Floats, labels: list[str], colours: list[int], title: str) -> Pixels:
        # The right ones first, so that nothing hides the errors.
        order = sorted(range(len(labels)), key=lambda index: colours[index] == WRONG)
        drawn = supervision().Detections(
            xyxy=(boxes * scale)[order].reshape(-1, 4),
            class_id=np.array(colours, np.int64)[order],
            data={"class_name": np.array(labels, np.str_)[order]},
        )
        return draw_boxes(pixels, drawn, title)

    here = np.flatnonzero((found.images == image) & ~matched.ignored)
    kinds = list(KINDS)
    told = [
        ""
        if matched.right[index]
        else f"{names[found.categories[index]]} {found.scores[index]:.2f}: "
        f"{kinds[errors.kinds[index]]}"
        for index in here
    ]
    wrong = matched.wrong[here]
    left = panel(
        found.boxes[here],
        told,
        [WRONG if each else RIGHT for each in wrong],
        f"found: {len(here) - wrong.sum()} right, {wrong.sum()} wrong",
    )
    marked = np.flatnonzero(objects.images == image)
    lost = (~matched.objects_found & ~objects.crowds)[marked]
    crowds = objects.crowds[marked]
    right = panel(
        objects.boxes[marked],
        [
            f"crowd of {names[k]}" if crowd else names[k] if out else ""
            for k, out, crowd in zip(objects.categories[marked], lost, crowds, strict=True)
        ],
        _colours(lost, crowds),
        f"marked: {(~crowds).sum()}, of which not found: {lost.sum()}",
    )
    gap = np.full((left.shape[0], 8, 3), 255, np.uint8)
    return np.concatenate([left, gap, right], 1)


def _colours(lost: Flags, crowds: Flags) -> list[int]:
    return np.where(crowds, CROWD, np.where(lost, WRONG, RIGHT)).tolist()
