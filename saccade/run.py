"""A training run from its configuration: data, detector, loop, evaluation, run folder."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from lightning.fabric import Fabric

from saccade.advice import advice
from saccade.analysis.matching import load_teacher
from saccade.config_json import to_dict
from saccade.data import (
    Annotations,
    Split,
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
from saccade.run_config import RunConfig
from saccade.run_evaluation import RunEvaluation
from saccade.settings import read_yaml, write_yaml
from saccade.starting import new_detector
from saccade.training.loop import fit
from saccade.training.step import in_any_process
from saccade.training.trackers import log_config, make_loggers


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
    split, annotations, dataset = _training_data(config)
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
    evaluation = RunEvaluation(fabric, config, folder, trained)
    distil = None
    if config.teacher is not None:
        teacher = load_teacher(config.teacher, config.model, config.loss, fabric.device)
        distil = teacher.distil
    if fabric.is_global_zero:
        _describe(fabric, config, folder, trained)
        evaluation.records.start(resume)
        if not resume:
            # torchrun's processes are in nobody's configuration.
            launched = replace(config.launch, devices=fabric.world_size, num_nodes=1)
            as_launched = replace(config, launch=launched)
            for sentence in advice(as_launched, len(dataset), len(annotations.objects)):
                print(f"advice: {sentence}")
            judged = (
                (split, annotations),
                (
                    evaluation.split.split,
                    evaluation.split.evaluator.annotations,
                ),
            )
            for finding in quick_findings(as_launched, *judged, trained.model):
                print(f"doctor: {finding}")
    fit(fabric, trained.model, loader, config, folder, evaluation, resume, distil)
    evaluation.finish()
    return evaluation.detector


def _training_data(config: RunConfig) -> tuple[Split, Annotations, SplitDataset]:
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
    return split, annotations, dataset


def _describe(fabric: Fabric, config: RunConfig, folder: Path, trained: Detector) -> None:
    """Write what the run is, and tell its trackers."""
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(config, folder / "config.yaml")
    log_config(fabric, to_dict(config), (folder / "config.yaml").read_text("utf-8"))
    if trained.report is not None:
        print(trained.report)
        (folder / "weights-report.txt").write_text(f"{trained.report}\n", "utf-8")


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
