"""How a run differs that starts from a trained detector."""

from dataclasses import replace

from saccade.run_config import RunConfig

SHORTER = 4
"""The divisor of the epochs, and as far as batches are added up, of images and rate a step."""
LEAST_WARMUP = 0.03


def fine_tuning(run: RunConfig) -> RunConfig:
    """The recipe of a detector, for weights that know what objects are.

    A quarter of the epochs. A quarter of the images a step, where they are added up from several
    batches, and then a quarter of the learning rate too: few images give enough steps, and the rate
    per image stays as it was. Deformable DETR's 50 epochs of 32 images at 2e-4 become 12 of 8
    images at 5e-5. New class heads are warmed up to. Everything else, such as the augmentation and
    the shape of the schedule, stays; every value can be given otherwise.
    """
    fewer = min(SHORTER, run.accumulate)
    schedule = run.schedule
    return replace(
        run,
        epochs=max(1, run.epochs // SHORTER),
        accumulate=run.accumulate // fewer,
        optimizer=replace(run.optimizer, learning_rate=run.optimizer.learning_rate / fewer),
        schedule=replace(schedule, warmup=max(schedule.warmup, LEAST_WARMUP)),
    )
