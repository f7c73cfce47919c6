"""`saccade train --check`: one batch, learnt by heart before a run is worth its hours."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

from lightning.fabric import Fabric

from saccade.data import SplitDataset, find_split, training_loader, training_transform
from saccade.run_config import RunConfig
from saccade.starting import new_detector
from saccade.training.loss_model import LossModel
from saccade.training.losses import SetCriterion
from saccade.training.overfit import OverfitResult, overfit, small_batch

MOST_BATCHES = 50
"""Where to look for one with objects."""


def check(config: RunConfig) -> OverfitResult:
    """Train a detector as the run would, in one process and on one batch, and keep nothing of it.

    Raises:
        ValueError: If the dataset or the configuration is unusable, or none of the first batches
            has an object.
    """
    split = find_split(Path(config.data), config.train_split)
    transform = training_transform(config.augmentation, config.model.input)
    dataset = SplitDataset(
        split,
        transform=transform,
        seed=config.seed,
        on_broken_image=config.on_broken_image,
    )
    config = replace(config, model=replace(config.model, class_names=dataset.class_names))
    try:
        fabric = Fabric(accelerator=config.launch.accelerator, devices=1)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{config.launch.accelerator} cannot train here ({' '.join(str(error).split())}): see "
            "--launch.accelerator."
        ) from error
    fabric.seed_everything(config.seed, verbose=False)
    loader = training_loader(dataset, batch_size=config.batch_size)
    with_objects = (
        found
        for found in islice(loader, MOST_BATCHES)
        if any(len(target.labels) for target in found[1])
    )
    found = next(with_objects, None)
    if found is None:
        raise ValueError(
            f"none of the first {min(MOST_BATCHES, len(loader)) * config.batch_size} images has an "
            f"object: look at the annotations of {config.data}."
        )
    batch, targets = small_batch(*found) if fabric.device.type == "cpu" else found
    model = new_detector(config).model.to(fabric.device)
    criterion = SetCriterion(config.loss, config.model.num_classes, config.model.classification)
    return overfit(
        model,
        LossModel(model, criterion, config.launch.precision),
        criterion,
        config.optimizer,
        batch.to(fabric.device),
        [target.to(fabric.device) for target in targets],
    )
