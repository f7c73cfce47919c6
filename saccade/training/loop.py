"""The training loop: one step after another, top to bottom."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torchdata.stateful_dataloader import StatefulDataLoader

from saccade.data import random_seed
from saccade.run_config import RunConfig
from saccade.structures import Batch, Predictions, Targets
from saccade.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from saccade.training.display import Display
from saccade.training.losses import SetCriterion
from saccade.training.optimizer import build_optimizer, learning_rate_factor, set_learning_rate

Evaluate = Callable[[Progress], dict[str, float]]
Distil = Callable[[Predictions, Batch, Sequence[Targets]], Predictions]
"""What a teacher makes of a student's predictions, such as `TeacherMatching.distil`."""


class LossModel(nn.Module):
    """The detector and its criterion as one module, so that Fabric sees tensors come out."""

    def __init__(
        self,
        model: nn.Module,
        criterion: SetCriterion,
        bf16: bool,
        distil: Distil | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion
        self.bf16 = bf16
        # A function, so that no teacher's weights become this module's.
        self.distil = distil

    def forward(self, batch: Batch, targets: list[Targets]) -> dict[str, Tensor]:
        """The unweighted losses of a batch."""
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=self.bf16):
            predictions = self.model(batch, targets)
            if self.distil is not None:
                predictions = self.distil(predictions, batch, targets)
        losses: dict[str, Tensor] = self.criterion(predictions, targets)
        return losses


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
    """Train `model` in place and leave ``last.ckpt`` in `folder` after every epoch.

    Everything random is seeded anew for every epoch, so that a run resumed after an epoch takes
    the same steps as one that was never interrupted. A run bound by minutes follows the clock
    instead, and resumes at the beginning of the epoch it was in.

    Args:
        fabric: Launched; it says on which devices and in how many processes.
        model: On the CPU or on the device already.
        loader: Its dataset has `set_epoch`; yields (Batch, list[Targets]).
        config: The run.
        folder: The run folder.
        evaluate: Called in every process, the model in evaluation mode; returns COCO's numbers.
        resume: Continue from ``last.ckpt``.
        distil: Applied to the predictions of every batch before the loss.

    Raises:
        ValueError: If a loss or gradient is not finite, or there is nothing to resume from.
    """
    criterion = SetCriterion(config.loss, config.model.num_classes, config.model.classification)
    model.to(fabric.device)
    optimizer = build_optimizer(model, config.optimizer)
    progress = Progress()
    if resume:
        progress, model_state, optimizer_state = load_checkpoint(folder / "last.ckpt")
        model.load_state_dict(model_state)
        optimizer.load_state_dict(optimizer_state)
    loss_model = LossModel(model, criterion, config.launch.bf16, distil)
    losses_of, optimizer = fabric.setup(loss_model, optimizer)

    def save_and_evaluate() -> None:
        if fabric.is_global_zero:
            save_checkpoint(
                folder / "last.ckpt", progress, model.state_dict(), optimizer.state_dict()
            )
        display.evaluating()
        model.eval()
        display.evaluated(progress, evaluate(progress))
        model.train()

    clock = Stopwatch(fabric, shared=config.minutes is not None)
    with Display(fabric, config, len(loader), progress) as display:
        while not is_over(progress, config):
            torch.manual_seed(random_seed(config.seed, progress.epoch, fabric.global_rank))
            loader.dataset.set_epoch(progress.epoch)
            model.train()
            clock.start()
            for index, (batch, targets) in enumerate(loader, start=1):
                before = replace(progress)
                complete = index % config.accumulate == 0 or index == len(loader)
                with fabric.no_backward_sync(losses_of, enabled=not complete):
                    losses = losses_of(
                        batch.to(fabric.device), [target.to(fabric.device) for target in targets]
                    )
                    total = criterion.total(losses)
                    check_finite(fabric, total, losses, targets, progress)
                    fabric.backward(total / config.accumulate)
                if complete:
                    share = share_passed(progress, config, (index - 1) / len(loader))
                    set_learning_rate(optimizer, learning_rate_factor(share, config.schedule))
                    clip_gradients(fabric, losses_of, optimizer, config.optimizer.clip_norm)
                    optimizer.step()
                    optimizer.zero_grad()
                    progress.step += 1
                progress.seconds += clock.lap()
                rate = optimizer.param_groups[0]["lr"]
                display.step(progress, index, total, losses, rate, len(targets))
                if config.minutes is not None and is_over(progress, config):
                    break
                if config.minutes is not None and is_evaluation_due(before, progress, config):
                    save_and_evaluate()
                    clock.start()
            before = replace(progress)
            progress.epoch += 1
            if is_over(progress, config) or is_evaluation_due(before, progress, config):
                save_and_evaluate()
            elif fabric.is_global_zero:
                save_checkpoint(
                    folder / "last.ckpt", progress, model.state_dict(), optimizer.state_dict()
                )
            fabric.barrier()


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


def clip_gradients(
    fabric: Fabric, model: nn.Module, optimizer: torch.optim.Optimizer, largest_norm: float
) -> None:
    """Scale all gradients together down to a norm; zero switches this off.

    Raises:
        ValueError: If a gradient is not finite.
    """
    if not largest_norm:
        return
    norm = fabric.clip_gradients(model, optimizer, max_norm=largest_norm, error_if_nonfinite=False)
    if norm is not None and not torch.isfinite(norm):
        raise ValueError(
            "the gradients are not finite although the losses are: lower optimizer.learning_rate, "
            "or train in float32 if launch.bf16 is set."
        )


def check_finite(
    fabric: Fabric,
    total: Tensor,
    losses: dict[str, Tensor],
    targets: list[Targets],
    progress: Progress,
) -> None:
    """Stop all processes at the first loss that is not finite, before it reaches the weights."""
    finite = torch.isfinite(total).float()
    if fabric.world_size > 1:
        # A process that stopped alone would leave the others waiting for its gradients.
        finite = fabric.all_reduce(finite, reduce_op="mean").floor()
    if not finite:
        terms = ", ".join(name for name, loss in losses.items() if not torch.isfinite(loss))
        images = ", ".join(str(target.image_id) for target in targets)
        raise ValueError(
            f"the loss is not finite at step {progress.step + 1} "
            f"(terms here: {terms or 'none'}; image ids here: {images}): "
            "lower optimizer.learning_rate, and look at the annotations of these images."
        )


class Stopwatch:
    """Seconds of training; `shared` between processes so that all stop after the same step."""

    def __init__(self, fabric: Fabric, shared: bool) -> None:
        self.fabric = fabric
        self.shared = shared and fabric.world_size > 1
        self.compiled = False
        self.started = 0.0

    def start(self) -> None:
        """Begin a lap now."""
        self.started = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the lap began, and begin another; the first one compiled kernels: none."""
        now = time.perf_counter()
        seconds, self.started = now - self.started, now
        if not self.compiled:
            self.compiled, seconds = True, 0.0
        return self.fabric.broadcast(seconds) if self.shared else seconds
