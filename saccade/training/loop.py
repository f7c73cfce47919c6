"""The training loop: one step after another, top to bottom."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lightning.fabric import Fabric
from torch import nn
from torchdata.stateful_dataloader import StatefulDataLoader

from saccade.data import random_seed
from saccade.run_config import RunConfig
from saccade.training.checkpoint import Checkpoint, Progress, load_checkpoint, save_checkpoint
from saccade.training.compilation import compiled, num_graphs
from saccade.training.display import Display
from saccade.training.ema import WeightAverage
from saccade.training.guards import Moment, NonFiniteGuard
from saccade.training.loss_model import Distil, LossModel
from saccade.training.losses import SetCriterion
from saccade.training.optimizer import build_optimizer, with_present_options
from saccade.training.recomputation import recomputing
from saccade.training.records import EvaluationRecords
from saccade.training.sharding import divided_optimizer_state, parts, whole
from saccade.training.step import Stepper, each_in_any_process, in_any_process
from saccade.training.step_images import with_steps
from saccade.training.stopping import StopRequests
from saccade.training.watch import Watch

Evaluate = Callable[[Progress], dict[str, float]]


def fit(
    fabric: Fabric,
    model: nn.Module,
    loader: StatefulDataLoader,
    config: RunConfig,
    folder: Path,
    evaluate: Evaluate,
    resume: bool = False,
    distil: Distil | None = None,
) -> None:
    """Train `model` in place and leave ``last.ckpt`` in `folder` as often as the run says.

    Where the run averages weights (`RunConfig.ema`), `model` ends with the averaged ones.
    Everything random is seeded anew for every batch, so that a run resumed anywhere takes the same
    steps as one that was never interrupted. A run bound by minutes follows the clock instead, of
    which it keeps the time. SIGTERM and the first SIGINT end a run after the step it is in.

    Args:
        fabric: Launched; it says on which devices and in how many processes.
        model: On the CPU or on the device already.
        loader: Of `saccade.data.training_loader`; yields (Batch, list[Targets]).
        config: The run.
        folder: The run folder.
        evaluate: Called in every process, the model in evaluation mode and holding its averaged
            weights; returns COCO's numbers. Called again at the moment of ``last.ckpt`` if the run
            ended during an evaluation.
        resume: Continue from ``last.ckpt``.
        distil: Applied to the predictions of every batch before the loss.

    Raises:
        ValueError: If a loss or gradient is not finite and that is not to be skipped, or there is
            nothing to resume from.
        OSError: If a checkpoint cannot be written.
        Stopped: If the run was asked to stop; it is saved.
    """
    criterion = SetCriterion(config.loss, config.model.num_classes, config.model.classification)
    model.to(fabric.device)
    progress = Progress()
    state = load_checkpoint(folder / "last.ckpt") if resume else None
    if state is not None:
        progress = state.progress
        model.load_state_dict(state.model)
    loss_model = LossModel(model, criterion, config.launch.precision, distil)
    losses_of = fabric.setup_module(loss_model)
    # Afterwards: the weights may be other objects now.
    optimizer = build_optimizer(model, config.optimizer)
    if state is not None:
        saved = with_present_options(state.optimizer, optimizer)
        optimizer.load_state_dict(divided_optimizer_state(saved, optimizer))
    optimizer = fabric.setup_optimizers(optimizer)
    average = WeightAverage(model, config.ema)
    if state is not None and state.average is not None:
        average.load_state_dict(state.average)
    clock = Stopwatch(fabric, shared=config.minutes is not None)
    records = EvaluationRecords(folder / "evaluations.jsonl")

    def save() -> None:
        here = fabric.is_global_zero
        states = [whole(each.state_dict(), here) for each in (model, optimizer, average)]
        states.append(stepper.scaler.state_dict())
        if here:
            save_checkpoint(folder / "last.ckpt", Checkpoint(progress, *states))
        clock.saved()

    def stop_if_asked() -> None:
        if in_any_process(fabric, stop.received is not None):
            fabric.barrier()
            raise stop.stopped()

    def evaluate_what_is_saved() -> None:
        stop_if_asked()
        with stop.at_once(), average.applied():
            display.evaluating()
            model.eval()
            display.evaluated(progress, evaluate(progress))
        progress.evaluation_due = False
        model.train()
        clock.start()

    with (
        StopRequests(folder) as stop,
        Display(fabric, config, len(loader), progress, records) as display,
        compiled(parts(model) if config.compile else ()),
        recomputing(parts(model) if config.activation_checkpointing else ()),
    ):
        guard = NonFiniteGuard(
            model,
            lambda batch, targets: criterion.total(loss_model(batch, targets)),
            config.on_nonfinite,
            loader.dataset.file_of,
        )
        watch = Watch(model, display.warn, progress.step)
        stepper = Stepper(
            fabric,
            losses_of,
            optimizer,
            average,
            criterion,
            config,
            guard,
            watch,
            display.warn,
        )
        if state is not None:
            stepper.scaler.load_state_dict(state.scaler)
        if progress.evaluation_due:
            evaluate_what_is_saved()
        while not is_over(progress, config):
            loader.dataset.set_epoch(progress.epoch)
            loader.sampler.start = progress.batch * config.batch_size
            model.train()
            before = replace(progress)
            clock.start()
            batches = with_steps(display.waiting.timed(loader), config.accumulate)
            for index, (batch, targets, images, complete) in enumerate(batches, progress.batch + 1):
                moment = Moment(
                    batch.to(fabric.device),
                    [target.to(fabric.device) for target in targets],
                    random_seed(config.seed, progress.epoch, index, fabric.global_rank + 1),
                    f"step {progress.step + 1} (epoch {progress.epoch + 1}, batch {index})",
                    images,
                )
                share = share_passed(progress, config, (index - 1) / len(loader))
                counted = stepper.take(moment, progress, share, complete)
                progress.seconds += clock.lap()
                if counted:
                    rate = optimizer.param_groups[0]["lr"]
                    display.step(progress, index, stepper.total, stepper.losses, rate, len(targets))
                if is_over(progress, config):
                    break
                if not complete:
                    continue
                progress.batch = index
                progress.evaluation_due = is_evaluation_due(before, progress, config)
                before = replace(progress)
                stopping, late = each_in_any_process(
                    fabric, stop.received is not None, clock.is_older(config.checkpoint_minutes)
                )
                if stopping or progress.evaluation_due or late:
                    save()
                if stopping:
                    stop_if_asked()
                if progress.evaluation_due:
                    evaluate_what_is_saved()
            progress.epoch += 1
            progress.batch = 0
            over = is_over(progress, config)
            progress.evaluation_due = over or is_evaluation_due(before, progress, config)
            save()
            if progress.evaluation_due:
                evaluate_what_is_saved()
            fabric.barrier()
        average.apply()


def is_over(progress: Progress, config: RunConfig) -> bool:
    """Whether the budget of epochs or minutes is spent."""
    if config.minutes is not None:
        return progress.seconds >= config.minutes * 60
    return progress.epoch >= config.epochs


def share_passed(progress: Progress, config: RunConfig, share_of_epoch: float = 0.0) -> float:
    """The share of the run that has passed, 0 to 1."""
    if config.minutes is not None:
        return min(1.0, progress.seconds / (config.minutes * 60))
    return min(1.0, (progress.epoch + share_of_epoch) / config.epochs)


def is_evaluation_due(before: Progress, now: Progress, config: RunConfig) -> bool:
    """Whether one of the run's evaluations, at equal distances, lies between two moments."""
    by_default = config.epochs if config.minutes is None else 5
    count = config.num_evaluations or by_default
    marks = [math.floor(share_passed(each, config) * count + 1e-9) for each in (before, now)]
    return marks[1] > marks[0]


class Stopwatch:
    """Seconds of training; `shared` between processes so that all stop after the same step."""

    def __init__(self, fabric: Fabric, shared: bool) -> None:
        self.fabric = fabric
        self.shared = shared and fabric.world_size > 1
        self.graphs = -1
        self.started = 0.0
        self.saved()

    def saved(self) -> None:
        """A checkpoint was written now, whose writing is no training."""
        self.started = self.saved_at = time.perf_counter()

    def is_older(self, minutes: float | None) -> bool:
        """Whether the last checkpoint is older than this; never for None."""
        return minutes is not None and time.perf_counter() - self.saved_at >= minutes * 60

    def start(self) -> None:
        """Begin a lap now."""
        self.started = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the lap began, and begin another; none if it compiled, as the first did."""
        now = time.perf_counter()
        seconds, self.started = now - self.started, now
        if num_graphs() != self.graphs:
            self.graphs, seconds = num_graphs(), 0.0
        return self.fabric.broadcast(seconds) if self.shared else seconds
