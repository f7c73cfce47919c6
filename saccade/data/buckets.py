"""Batches of images of like shapes, which need little padding."""

from collections.abc import Sequence

import torch

WINDOW = 50
"""Batches whose images change places with each other: more pad less, fewer mix images better."""


def group_alike(
    order: Sequence[int], aspects: Sequence[float], size: int, generator: torch.Generator
) -> list[int]:
    """A shuffled order changed so that every `size` images in a row have like aspect ratios.

    Images are sorted within windows of `WINDOW` groups and their groups shuffled, so that an image
    meets others in every epoch. What does not fill the last group stays at the end.

    Args:
        order: Indices of images, shuffled.
        aspects: Width by height of each image.
        size: Images per group: those of one batch, in all processes.
        generator: Shuffles the groups.

    >>> shapes = [1.0, 2.0, 1.0, 2.0, 1.0]
    >>> group_alike([3, 0, 1, 2, 4], shapes, 2, torch.Generator().manual_seed(1))
    [3, 1, 0, 2, 4]
    """
    whole = len(order) // size * size
    groups = []
    for start in range(0, whole, WINDOW * size):
        window = order[start : min(start + WINDOW * size, whole)]
        # Images of one aspect ratio stay shuffled, for sorting is stable.
        alike = sorted(window, key=aspects.__getitem__)
        groups += [alike[first : first + size] for first in range(0, len(alike), size)]
    turns = torch.randperm(len(groups), generator=generator).tolist()
    return [index for turn in turns for index in groups[turn]] + list(order[whole:])
