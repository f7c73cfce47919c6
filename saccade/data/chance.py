"""Draws from torch's global CPU generator, which a dataset seeds for every sample."""

from collections.abc import Sequence

import torch


def happens(probability: float) -> bool:
    """True with a probability."""
    return torch.rand(()).item() < probability


def choose(options: Sequence[int]) -> int:
    """One of the options."""
    return options[draw_integer(0, len(options) - 1)]


def draw_integer(least: int, most: int) -> int:
    """From [least, most], both included."""
    return int(torch.randint(least, most + 1, ()))
