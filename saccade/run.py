"""A training run from its configuration: data, detector, loop, evaluation, run folder."""

import json
from dataclasses import replace
from pathlib import Path

from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger, TensorBoardLogger
from rich.progress import track

from saccade.config import RunConfig
from saccade.data import (
    CocoDataset,
    evaluation_loader,
    evaluation_transform,
    find_split,
    training_loader,
    training_transform,
)
from saccade.evaluation import CocoEvaluator, CocoResult, evaluate
from saccade.inference.predictor import Detector
from saccade.model import DetectorModel, Found, select
from saccade.settings import write_yaml
from saccade.structures import Batch
from saccade.training.checkpoint import Progress
from saccade.training.loop import fit


def train(config: RunConfig, folder: Path, resume: bool = False) -> Detector:
    """Train a detector and leave everything in `folder`.

    ``config.yaml`` is the complete run, ``best/`` and ``last/`` hold the weights, ``last.ckpt``
    what `resume` needs, ``evaluations.jsonl`` one line of COCO numbers per evaluation, ``logs/``
    (TensorBoard) and ``csv/`` the losses of every session.

    Args:
        config: The run; its classes are replaced by those of the dataset.
        folder: The run folder; made if it is missing.
        resume: Continue the run that `folder` holds.

    Returns:
        The detector with its last weights.

    Raises:
        ValueError: If the dataset or the configuration is unusable, or a loss is not finite.
    """
    if not resume and (folder / "config.yaml").exists():
        raise ValueError(
            f"{folder} holds a run already: resume it (--resume), or name another folder (--out)."
        )
    split = find_split(Path(config.data), config.train_split)
    transform = training_transform(config.augmentation, config.model.input)
    dataset = CocoDataset(split, transform=transform, seed=config.seed)
    config = replace(config, model=replace(config.model, class_names=dataset.class_names))
    fabric = _launch(config, folder)
    loader = training_loader(
        dataset,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    fabric.seed_everything(config.seed, verbose=False)
    detector = Detector(config.model, DetectorModel(config.model, config.pretrained_backbone))
    if fabric.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        write_yaml(config, folder / "config.yaml")

    def evaluate_and_keep(progress: Progress) -> dict[str, float]:
        result = evaluate_detector(
            detector,
            Path(config.data),
            config.val_split,
            batch_size=config.batch_size,
            num_workers=config.num_workers,
            fabric=fabric,
        )
        if fabric.is_global_zero:
            record: dict[str, float] = {"epoch": progress.epoch, "step": progress.step}
            record |= {"minutes": progress.seconds / 60, **result.numbers}
            with (folder / "evaluations.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
            if result.AP > progress.best_ap:
                detector.save_pretrained(folder / "best")
        return result.numbers

    fit(fabric, detector.model, loader, config, folder, evaluate_and_keep, resume)
    if fabric.is_global_zero:
        detector.model.eval()
        detector.save_pretrained(folder / "last")
    return detector


def evaluate_detector(
    detector: Detector,
    data: Path,
    split: str = "val",
    *,
    batch_size: int = 1,
    num_workers: int = 0,
    max_detections: int = 100,
    fabric: Fabric | None = None,
    progress: bool = False,
) -> CocoResult:
    """COCO's numbers of a detector on one split of a dataset.

    Args:
        detector: Its classes are matched to the dataset's categories by name.
        data: The dataset's folder.
        split: Which part of it.
        batch_size: Images of different sizes are padded to one, as in the official evaluation.
        num_workers: Processes that read images.
        max_detections: How many count per image and class.
        fabric: Where several processes evaluate together.
        progress: Show a progress bar.
    """
    found = find_split(data, split)
    evaluator = CocoEvaluator(found.annotations, detector.class_names, max_detections)
    dataset = CocoDataset(found, transform=evaluation_transform(detector.config.input))
    loader = evaluation_loader(
        dataset,
        batch_size=batch_size,
        num_workers=num_workers,
        rank=fabric.global_rank if fabric else 0,
        world_size=fabric.world_size if fabric else 1,
    )

    def predict(batch: Batch) -> list[Found]:
        return select(detector.model(batch), detector.config.classification, max_detections)

    batches = track(loader, "evaluating", disable=not progress)
    return evaluate(predict, batches, evaluator, detector.device)


def _launch(config: RunConfig, folder: Path) -> Fabric:
    launch = config.launch
    session = f"session-{len(list(folder.glob('logs/session-*'))) + 1}"
    fabric = Fabric(
        accelerator=launch.accelerator,
        devices=launch.devices,
        num_nodes=launch.num_nodes,
        loggers=[
            TensorBoardLogger(folder, name="logs", version=session),
            CSVLogger(folder, name="csv", version=session),
        ],
    )
    fabric.launch()
    return fabric
