"""The training loop: one step after another, top to bottom."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torchdata.stateful_dataloader import StatefulDataLoader

from saccade.config import RunConfig
from saccade.data import random_seed
from saccade.structures import Batch, Targets
from saccade.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from saccade.training.display import Display
from saccade.training.losses import SetCriterion
from saccade.training.optimizer import build_optimizer, learning_rate_factor, set_learning_rate


class LossModel(nn.Module):
    """The detector and its criterion as one module, so that Fabric sees tensors come out."""

    def __init__(self, model: nn.Module, criterion: SetCriterion, bf16: bool) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion
        self.bf16 = bf16

    def forward(self, batch: Batch, targets: list[Targets]) -> dict[str, Tensor]:
        """The unweighted losses of a batch."""
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=self.bf16):
            predictions = self.model(batch, targets)
        losses: dict[str, Tensor] = self.criterion(predictions, targets)
        return losses


def fit(
    fabric: Fabric,
    model: nn.Module,
    loader: StatefulDataLoader,
    config: RunConfig,
    folder: Path,
    evaluate: Callable[[Progress], dict[str, float]],
    resume: bool = False,
) -> None:
    """Train `model` in place and leave ``last.ckpt`` in `folder` after every epoch.

    Everything random is seeded anew for every epoch, so that a run resumed after an epoch takes
    the same steps as one that was never interrupted.

    Args:
        fabric: Launched; it says on which devices and in how many processes.
        model: On the CPU or on the device already.
        loader: Its dataset has `set_epoch`; yields (Batch, list[Targets]).
        config: The run.
        folder: The run folder.
        evaluate: Called in every process, the model in evaluation mode; returns COCO's numbers.
        resume: Continue from ``last.ckpt``.

    Raises:
        ValueError: If a loss is not finite, or there is no checkpoint to resume from.
    """
    criterion = SetCriterion(config.loss, config.model.num_classes, config.model.classification)
    model.to(fabric.device)
    optimizer = build_optimizer(model, config.optimizer)
    progress = Progress()
    if resume:
        progress, model_state, optimizer_state = load_checkpoint(folder / "last.ckpt")
        model.load_state_dict(model_state)
        optimizer.load_state_dict(optimizer_state)
    losses_of, optimizer = fabric.setup(LossModel(model, criterion, config.launch.bf16), optimizer)

    clock = Stopwatch(fabric)
    with Display(fabric, config, len(loader), progress) as display:
        while not is_over(progress, config):
            torch.manual_seed(random_seed(config.seed, progress.epoch, fabric.global_rank))
            loader.dataset.set_epoch(progress.epoch)
            model.train()
            clock.start()
            for batch, targets in loader:
                share = share_passed(progress, config, len(loader))
                set_learning_rate(optimizer, learning_rate_factor(share, config.schedule))
                losses = losses_of(
                    batch.to(fabric.device), [target.to(fabric.device) for target in targets]
                )
                total = criterion.total(losses)
                check_finite(total, losses, targets, progress)
                fabric.backward(total)
                fabric.clip_gradients(losses_of, optimizer, max_norm=config.optimizer.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
                progress.step += 1
                progress.seconds += clock.lap()
                display.step(progress, total, losses, optimizer.param_groups[0]["lr"], len(targets))
                if config.minutes and is_over(progress, config):
                    break
                if config.minutes and is_evaluation_due(progress, config):
                    evaluate_now(model, evaluate, progress, display)
                    clock.start()
            progress.epoch += 1
            if is_over(progress, config) or is_evaluation_due(progress, config):
                evaluate_now(model, evaluate, progress, display)
            if fabric.is_global_zero:
                save_checkpoint(
                    folder / "last.ckpt", progress, model.state_dict(), optimizer.state_dict()
                )
            fabric.barrier()


def evaluate_now(
    model: nn.Module,
    evaluate: Callable[[Progress], dict[str, float]],
    progress: Progress,
    display: Display,
) -> None:
    """Evaluate between two steps; the time it takes is not training time."""
    model.eval()
    progress.evaluations += 1
    numbers = evaluate(progress)
    progress.best_ap = max(progress.best_ap, numbers["AP"])
    display.evaluated(progress, numbers)
    model.train()


def is_over(progress: Progress, config: RunConfig) -> bool:
    """Whether the budget of epochs or minutes is spent."""
    if config.minutes is not None:
        return progress.seconds >= config.minutes * 60
    return progress.epoch >= config.epochs


def share_passed(progress: Progress, config: RunConfig, steps_per_epoch: int) -> float:
    """The share of the run that has passed, 0 to 1."""
    if config.minutes is not None:
        return min(1.0, progress.seconds / (config.minutes * 60))
    return progress.step / (config.epochs * steps_per_epoch)


def is_evaluation_due(progress: Progress, config: RunConfig) -> bool:
    """Whether the next of the run's evaluations, at equal distances, has come."""
    if config.minutes is not None:
        passed = progress.seconds / (config.minutes * 60)
        count = config.num_evaluations or 5
    else:
        passed = progress.epoch / config.epochs
        count = config.num_evaluations or config.epochs
    return math.floor(passed * count + 1e-9) > progress.evaluations


class Stopwatch:
    """Seconds of training, the same in every process."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
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
        # All processes go by the first one's clock, so that they stop after the same step.
        return self.fabric.broadcast(seconds) if self.fabric.world_size > 1 else seconds


def check_finite(
    total: Tensor, losses: dict[str, Tensor], targets: list[Targets], progress: Progress
) -> None:
    """Stop at the first loss that is not finite, before it reaches the weights."""
    if not torch.isfinite(total):
        terms = ", ".join(name for name, loss in losses.items() if not torch.isfinite(loss))
        images = ", ".join(str(target.image_id) for target in targets)
        raise ValueError(
            f"the loss is not finite at step {progress.step + 1} ({terms}; image ids {images}): "
            "lower optimizer.learning_rate, and look at the annotations of these images."
        )
