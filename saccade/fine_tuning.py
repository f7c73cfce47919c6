"""How a run differs that starts from a trained detector."""

import math
from dataclasses import replace

from saccade.run_config import RunConfig

SHORTER = 4
"""The divisor of the epochs and of the images a step, as far as what follows allows it."""
LEAST_EPOCHS = 12
LEAST_IMAGES = 8
"""A step, in one process."""
LEAST_WARMUP = 0.03


def fine_tuning(run: RunConfig) -> RunConfig:
    """The recipe of a detector, for weights that know what objects are.

    A quarter of the epochs, but 12 at least. Where batches are added up, as few of them as make a
    quarter of the images a step, and 8 at least: few images then give enough steps. The learning
    rate falls with the images a step, so that it stays what it was per image; docs/log.md says what
    less does. New class heads are warmed up to. Everything else, such as the augmentation and the
    shape of the schedule, stays, and every value can be given otherwise.

    Deformable DETR's 50 epochs of 32 images at 2e-4, as published, become 12 of 8 images at 5e-5.
    """
    images = max(LEAST_IMAGES, run.batch_size * run.accumulate / SHORTER)
    accumulate = min(run.accumulate, math.ceil(images / run.batch_size))
    rate = run.optimizer.learning_rate * accumulate / run.accumulate
    return replace(
        run,
        epochs=min(run.epochs, max(run.epochs // SHORTER, LEAST_EPOCHS)),
        accumulate=accumulate,
        optimizer=replace(run.optimizer, learning_rate=rate),
        schedule=replace(run.schedule, warmup=max(run.schedule.warmup, LEAST_WARMUP)),
    )
