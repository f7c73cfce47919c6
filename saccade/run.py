"""A training run from its configuration: data, detector, loop, evaluation, run folder."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from lightning.fabric import Fabric

from saccade.advice import advice
from saccade.analysis.curves import draw_sparsity
from saccade.analysis.images import FewImages
from saccade.analysis.matching import load_teacher
from saccade.analysis.run_document import write_run_report
from saccade.analysis.run_pictures import EvaluationPictures
from saccade.analysis.while_training import EvaluationAnalysis
from saccade.config_json import to_dict
from saccade.data import (
    SplitDataset,
    check_images,
    find_split,
    training_loader,
    training_mix,
    training_transform,
)
from saccade.doctor.quick import quick_findings
from saccade.inference.predictor import Detector
from saccade.launch import ending_together, is_restart, launch
from saccade.model import DetectorModel
from saccade.run_config import RunConfig
from saccade.settings import read_yaml, write_yaml
from saccade.split_evaluation import SplitEvaluation
from saccade.starting import new_detector
from saccade.training import HungarianMatcher
from saccade.training.checkpoint import Progress
from saccade.training.loop import fit
from saccade.training.records import EvaluationRecords
from saccade.training.sharding import whole
from saccade.training.step import in_any_process
from saccade.training.trackers import finish, log_config, log_pictures, make_loggers


def train(config: RunConfig, folder: Path, resume: bool | Literal["auto"] = False) -> Detector:
    """Train a detector and leave everything in `folder`.

    ``config.yaml`` is the complete run, ``best/`` and ``last/`` hold the weights, ``last.ckpt``
    what `resume` needs, ``weights-report.txt`` what became of given weights,
    ``evaluations.jsonl`` one line per evaluation: COCO's numbers and those of `EvaluationAnalysis`,
    whose sparsity ``sparsity.png`` shows over the run; ``logs/`` (TensorBoard) and ``csv/`` hold
    these and the losses of every session, ``pictures/`` what every evaluation found in a few
    images, ``report.html`` all of it at the end.

    Args:
        config: The run; its classes are replaced by those of the dataset.
        folder: The run folder; made if it is missing.
        resume: Continue the run that `folder` holds; "auto" where it holds one, which is also what
            happens in a process that torchrun has restarted.

    Returns:
        The detector with its last weights.

    Raises:
        ValueError: If the dataset, one of its images or the configuration is unusable, `folder`
            holds another run, or a loss is not finite.
        OSError: If there is no room for a checkpoint, or another process was killed.
        Stopped: If SIGTERM or Ctrl-C ended the run; it is saved, and `resume` goes on with it.
        EndedElsewhere: In the other processes, if one raises any of these.
    """
    with ending_together(folder):
        fabric = launch(config.launch, make_loggers(config.trackers, folder))
        # torchrun counts restarts on each machine by itself.
        if in_any_process(fabric, resume == "auto" or is_restart()):
            # One process looks: a network's folder may look different from another machine.
            resume = fabric.broadcast((folder / "last.ckpt").exists())
        return _train(fabric, config, folder, bool(resume))


def _train(fabric: Fabric, config: RunConfig, folder: Path, resume: bool) -> Detector:
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
        mix=training_mix(config.augmentation),
    )
    config = replace(config, model=replace(config.model, class_names=dataset.class_names))
    if fabric.is_global_zero:
        _check_folder(config, folder, resume)
    loader = training_loader(
        dataset,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        aspect_bucketing=config.aspect_bucketing,
    )
    fabric.seed_everything(config.seed, verbose=False)
    trained = new_detector(config, resumed=resume)
    detector = trained
    if config.launch.strategy == "fsdp" and fabric.world_size > 1:
        # What is evaluated and saved has all of its weights in each process.
        detector = Detector(config.model, DetectorModel(config.model), trained.report)
    # Made before the first step, so that an unusable split is told before hours of training.
    evaluation = SplitEvaluation(
        detector,
        Path(config.data),
        config.val_split,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        max_detections=config.max_detections,
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
        log_config(fabric, to_dict(config), (folder / "config.yaml").read_text("utf-8"))
        if detector.report is not None:
            print(detector.report)
            (folder / "weights-report.txt").write_text(f"{detector.report}\n", "utf-8")
        if not resume:
            for sentence in advice(config, len(dataset), len(annotations.objects)):
                print(f"advice: {sentence}")
            evaluated = evaluation.split, evaluation.evaluator.annotations
            for finding in quick_findings(config, (split, annotations), evaluated, trained.model):
                print(f"doctor: {finding}")
    records = EvaluationRecords(folder / "evaluations.jsonl")
    if fabric.is_global_zero:
        records.start(resume)

    draw = EvaluationPictures(evaluation.dataset, evaluation.evaluator, config.pictures)

    def evaluate_and_keep(progress: Progress) -> dict[str, float]:
        # A run that was killed after an evaluation, before its next checkpoint, comes here again.
        known: dict[str, float] | None = fabric.broadcast(records.at(progress))
        if known is not None:
            evaluation.result = None
            return known
        _gather_weights(trained, detector, fabric)
        result = evaluation()
        numbers = result.numbers
        if fabric.is_global_zero:
            if result.AP > records.best_ap:
                detector.save_pretrained(folder / "best")
            if analysis is not None:
                numbers |= analysis()
            records.add(progress, numbers)
            pictures = draw()
            draw.save(pictures, folder / "pictures", progress.step)
            log_pictures(fabric, pictures, progress.step)
        return numbers

    fit(fabric, trained.model, loader, config, folder, evaluate_and_keep, resume, distil)
    _gather_weights(trained, detector, fabric)
    detector.model.eval()
    if fabric.is_global_zero:
        detector.save_pretrained(folder / "last")
        if any(name.startswith("sparsity/") for record in records.read() for name in record):
            draw_sparsity(records.file, folder / "sparsity.png")
    if config.report:
        # A run that was killed after its last evaluation has only the numbers of it.
        result = evaluation.result or evaluation()
        if fabric.is_global_zero:
            write_run_report(folder, config, evaluation, result, fabric.world_size)
    if fabric.is_global_zero:
        finish(fabric, to_dict(config), records.best)
    return detector


def _gather_weights(trained: Detector, detector: Detector, fabric: Fabric) -> None:
    """Give weights that are divided among processes to the detector that has all of them."""
    if detector is not trained:
        detector.model.load_state_dict(whole(trained.model.state_dict()))
        detector.model.to(fabric.device)


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
