"""How learning rates change over a run."""

import math

from torch.optim import Optimizer

from saccade.recipe_config import ScheduleConfig


def learning_rate_factor(progress: float, schedule: ScheduleConfig) -> float:
    """What multiplies every learning rate at a moment of the run.

    Args:
        progress: Fraction of the run that has passed, in steps or in time; a run that overstays
            keeps the factor of its end.
        schedule: How the factor changes.

    Raises:
        ValueError: If `progress` is negative or not a number.

    >>> [learning_rate_factor(epoch / 50, ScheduleConfig()) for epoch in (0, 39, 40, 50)]
    [1.0, 1.0, 0.1, 0.1]
    """
    if not progress >= 0:
        raise ValueError(
            f"progress is {progress}: expected the fraction of the run that has passed, 0 to 1."
        )
    if progress < schedule.warmup:
        return progress / schedule.warmup
    if schedule.kind == "step":
        return 1.0 if progress < schedule.drop_at else schedule.drop_factor
    falls_from = schedule.warmup if schedule.kind == "cosine" else schedule.flat_until
    if progress < falls_from or falls_from == 1:
        return 1.0
    passed = (min(progress, 1.0) - falls_from) / (1 - falls_from)
    return (
        schedule.final_factor + (1 - schedule.final_factor) * (1 + math.cos(math.pi * passed)) / 2
    )


def set_learning_rate(optimizer: Optimizer, factor: float) -> None:
    """Set every group's learning rate to `factor` times the one it was built with."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
