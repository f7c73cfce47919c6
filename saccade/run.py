"""A training run from its configuration: data, detector, loop, evaluation, run folder."""

import os
from dataclasses import replace
from pathlib import Path

from lightning.fabric import Fabric
from lightning.fabric.loggers.csv_logs import CSVLogger
from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from rich.progress import track

from saccade.analysis.curves import draw_sparsity
from saccade.analysis.images import FewImages
from saccade.analysis.matching import load_teacher
from saccade.analysis.while_training import EvaluationAnalysis
from saccade.data import (
    SplitDataset,
    check_images,
    evaluation_loader,
    evaluation_transform,
    find_split,
    training_loader,
    training_transform,
    without_broken,
)
from saccade.evaluation import CocoEvaluator, CocoResult, evaluate
from saccade.inference.predictor import Detector
from saccade.model import DetectorModel, Found, select
from saccade.run_config import LaunchConfig, OnBrokenImage, RunConfig
from saccade.settings import read_yaml, write_yaml
from saccade.structures import Batch
from saccade.training import HungarianMatcher
from saccade.training.checkpoint import Progress
from saccade.training.loop import fit
from saccade.training.records import EvaluationRecords
from saccade.weights.adapt import missing_offsets, with_deformable_levels


def train(config: RunConfig, folder: Path, resume: bool = False) -> Detector:
    """Train a detector and leave everything in `folder`.

    ``config.yaml`` is the complete run, ``best/`` and ``last/`` hold the weights, ``last.ckpt``
    what `resume` needs, ``evaluations.jsonl`` one line per evaluation: COCO's numbers and those of
    `EvaluationAnalysis`, whose sparsity ``sparsity.png`` shows over the run; ``logs/``
    (TensorBoard) and ``csv/`` hold these and the losses of every session.

    Args:
        config: The run; its classes are replaced by those of the dataset.
        folder: The run folder; made if it is missing.
        resume: Continue the run that `folder` holds.

    Returns:
        The detector with its last weights.

    Raises:
        ValueError: If the dataset, one of its images or the configuration is unusable, `folder`
            holds another run, or a loss is not finite.
        OSError: If there is no room for a checkpoint.
        Stopped: If SIGTERM or Ctrl-C ended the run; it is saved, and `resume` goes on with it.
    """
    split = find_split(Path(config.data), config.train_split)
    annotations = split.read()
    if config.on_broken_image == "fail":
        check_images(split.images, annotations)
    dataset = SplitDataset(
        split,
        transform=training_transform(config.augmentation, config.model.input),
        seed=config.seed,
        annotations=annotations,
        on_broken_image=config.on_broken_image,
    )
    config = replace(config, model=replace(config.model, class_names=dataset.class_names))
    _check_folder(config, folder, resume)
    fabric = _launch(config.launch, folder)
    loader = training_loader(
        dataset,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    fabric.seed_everything(config.seed, verbose=False)
    detector = new_detector(config)
    # Made before the first step, so that an unusable split is told before hours of training.
    evaluation = SplitEvaluation(
        detector,
        Path(config.data),
        config.val_split,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        on_broken_image=config.on_broken_image,
        fabric=fabric,
    )
    analysis = _analysis(config, detector) if fabric.is_global_zero else None
    distil = None
    if config.teacher is not None:
        teacher = load_teacher(config.teacher, config.model, config.loss, fabric.device)
        distil = teacher.distil
    if fabric.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        write_yaml(config, folder / "config.yaml")
        if detector.report is not None:
            print(detector.report)
    records = EvaluationRecords(folder / "evaluations.jsonl")
    if fabric.is_global_zero:
        records.start(resume)

    def evaluate_and_keep(progress: Progress) -> dict[str, float]:
        # A run that was killed after an evaluation, before its next checkpoint, comes here again.
        known: dict[str, float] | None = fabric.broadcast(records.at(progress))
        if known is not None:
            return known
        result = evaluation()
        numbers = result.numbers
        if fabric.is_global_zero:
            if result.AP > records.best_ap:
                detector.save_pretrained(folder / "best")
            if analysis is not None:
                numbers |= analysis()
            records.add(progress, numbers)
        return numbers

    fit(fabric, detector.model, loader, config, folder, evaluate_and_keep, resume, distil)
    detector.model.eval()
    if fabric.is_global_zero:
        detector.save_pretrained(folder / "last")
        if any(name.startswith("sparsity/") for record in records.read() for name in record):
            draw_sparsity(records.file, folder / "sparsity.png")
    return detector


class SplitEvaluation:
    """COCO's numbers of a detector on one split of a dataset, as often as it is called."""

    def __init__(
        self,
        detector: Detector,
        data: Path,
        split: str = "val",
        *,
        batch_size: int = 1,
        num_workers: int = 0,
        max_detections: int = 100,
        on_broken_image: OnBrokenImage = "fail",
        fabric: Fabric | None = None,
        progress: bool = False,
    ) -> None:
        """Read the annotations, and look at the images.

        Args:
            detector: Its classes are matched to the dataset's categories by name.
            data: The dataset's folder.
            split: Which part of it.
            batch_size: Images of different sizes are padded to one, as in the official evaluation.
            num_workers: Processes that read images.
            max_detections: How many count per image and class.
            on_broken_image: Whether to fail, here where an image's header or end shows it, or to
                evaluate without the broken images; all are then decoded once to find them.
            fabric: Where several processes evaluate together.
            progress: Show a progress bar.

        Raises:
            ValueError: If there is no such split, or it is unusable.
        """
        found = find_split(data, split)
        annotations = found.read()
        if on_broken_image == "fail":
            check_images(found.images, annotations)
        else:
            annotations = without_broken(found.images, annotations)
        self.detector = detector
        self.max_detections = max_detections
        self.progress = progress
        self.evaluator = CocoEvaluator(annotations, detector.class_names, max_detections)
        transform = evaluation_transform(detector.config.input)
        self.dataset = SplitDataset(found, transform=transform, annotations=annotations)
        self.loader = evaluation_loader(
            self.dataset,
            batch_size=batch_size,
            num_workers=num_workers,
            rank=fabric.global_rank if fabric else 0,
            world_size=fabric.world_size if fabric else 1,
        )

    def __call__(self) -> CocoResult:
        """Evaluate the detector as it is now."""
        self.detector.model.eval()
        batches = track(self.loader, "evaluating", disable=not self.progress)
        return evaluate(self._predict, batches, self.evaluator, self.detector.device)

    def _predict(self, batch: Batch) -> list[Found]:
        predictions = self.detector.model(batch)
        return select(predictions, self.detector.config.classification, self.max_detections)


def _check_folder(config: RunConfig, folder: Path, resume: bool) -> None:
    if not resume and (folder / "last.ckpt").exists():
        raise ValueError(
            f"{folder} holds a run already: resume it (--resume), or name another folder (--out)."
        )
    if resume and read_yaml(folder / "config.yaml").model != config.model:
        raise ValueError(
            f"the run in {folder} trains another model or other classes than asked for now: "
            "resume it without changing model options or the dataset's categories."
        )


def _analysis(config: RunConfig, detector: Detector) -> EvaluationAnalysis | None:
    if not config.analyse:
        return None
    images = FewImages(
        Path(config.data),
        config.val_split,
        config.model,
        config.analyse,
        on_broken_image=config.on_broken_image,
    )
    matcher = HungarianMatcher(config.loss, config.model.classification)
    return EvaluationAnalysis(detector.model, images, matcher)


def new_detector(config: RunConfig) -> Detector:
    """The detector that a run starts from.

    Raises:
        ValueError: If the run's weights do not fit its model.
    """
    if config.weights is None:
        return Detector(config.model, DetectorModel(config.model, config.pretrained_backbone))
    loaded = Detector.from_pretrained(config.weights, class_names=config.model.class_names)
    model, state, report = DetectorModel(config.model), loaded.model.state_dict(), loaded.report
    wider = with_deformable_levels(loaded.config, config.model.backbone)
    if wider != loaded.config:
        added = missing_offsets(wider, state)
        state |= added
        report = None if report is None else replace(report, added=tuple(added))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise ValueError(
            f"{config.weights} does not fit the model as configured ({first}): "
            "leave out the model options that change its shape."
        ) from error
    return Detector(config.model, model, report)


def _launch(launch: LaunchConfig, folder: Path) -> Fabric:
    session = f"session-{len(list(folder.glob('logs/session-*'))) + 1}"
    # torchrun has started the processes already and says how many.
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    nodes = int(os.environ["WORLD_SIZE"]) // local if local else launch.num_nodes
    try:
        fabric = Fabric(
            accelerator=launch.accelerator,
            devices=local or launch.devices,
            num_nodes=nodes,
            loggers=[
                TensorBoardLogger(folder, name="logs", version=session),
                CSVLogger(folder, name="csv", version=session, flush_logs_every_n_steps=1),
            ],
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{launch.devices} x {launch.accelerator} cannot train here "
            f"({' '.join(str(error).split())}): see --launch.accelerator and --launch.devices."
        ) from error
    fabric.launch()
    return fabric
