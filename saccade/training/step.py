"""One step of the optimiser: forward, backward, clip, step."""

from collections.abc import Sequence

import torch
from lightning.fabric import Fabric
from torch import Tensor, distributed, nn

from saccade.run_config import RunConfig
from saccade.training.checkpoint import Progress
from saccade.training.ema import WeightAverage
from saccade.training.guards import Moment, NonFiniteGuard, running_statistics
from saccade.training.losses import SetCriterion
from saccade.training.matcher import NotFiniteError
from saccade.training.scaling import LossScaler
from saccade.training.schedule import learning_rate_factor, set_learning_rate
from saccade.training.sharding import is_sharded, whole
from saccade.training.watch import Warn, Watch


class Stepper:
    """Takes a run's steps, each over `accumulate` batches; the guards look on."""

    def __init__(
        self,
        fabric: Fabric,
        losses_of: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage,
        criterion: SetCriterion,
        config: RunConfig,
        guard: NonFiniteGuard,
        watch: Watch,
        warn: Warn,
    ) -> None:
        """Take no step yet.

        Args:
            fabric: What `losses_of` and `optimizer` were set up with.
            losses_of: Returns the unweighted losses of a batch.
            optimizer: Its groups have an ``initial_lr``.
            average: Takes the weights in after every step.
            criterion: Weighs the losses.
            config: The run.
            guard: Told what is not finite.
            watch: Told of every batch and step.
            warn: Told, in every process, that a step is left out.
        """
        self.fabric = fabric
        self.losses_of = losses_of
        self.optimizer = optimizer
        self.average = average
        self.criterion = criterion
        self.config = config
        self.guard = guard
        self.watch = watch
        self.warn = warn
        self.sharded = is_sharded(losses_of)
        self.statistics = running_statistics(losses_of) if fabric.world_size > 1 else []
        self.scaler = LossScaler(fabric.device.type, config.launch.precision == "fp16")
        self.spoiled = False
        """Whether the step that the next batch belongs to is left out."""
        self.overflowed = False
        """Whether the last complete step was one that the scaler leaves out."""
        self.losses: dict[str, Tensor] = {}
        """Of the step's batches so far, on average; between steps, of the one before."""
        self.total = torch.zeros(())
        """Their weighted sum."""
        self._part = 0.0

    def take(self, moment: Moment, progress: Progress, share: float, complete: bool) -> bool:
        """Add a batch to the step, and take the step if it is complete.

        Args:
            moment: The batch.
            progress: Advanced by the step.
            share: Of the run that has passed, which decides on the learning rate.
            complete: Whether this is the step's last batch.

        Returns:
            Whether the batch counted; its losses are then part of `losses` and `total`.

        Raises:
            ValueError: If a loss or gradient is not finite, as `NonFiniteGuard.handle` says.
        """
        if not self.spoiled:
            self.guard.before()
            torch.manual_seed(moment.seed)
            # Gradients that wait to be divided would be whole in each process, and outlive a step
            # that is left out.
            waiting = not complete and not self.sharded
            with self.fabric.no_backward_sync(self.losses_of, enabled=waiting):
                losses, total = self._forward(moment)
                if in_any_process(self.fabric, not total.isfinite().item()):
                    self._leave_out(self.guard.handle("loss", moment))
                else:
                    # What the losses are divided by is the whole step's: they add up.
                    self.fabric.backward(self.scaler.scale(total))
                    self._note(losses, total, moment, share)
        if complete and not self.spoiled:
            self.scaler.unscale(self.optimizer)
            largest = self.config.optimizer.clip_norm
            norm = clip_gradients(self.fabric, self.losses_of, self.optimizer, largest)
            self.overflowed = not norm.isfinite() and self.scaler.overflowed()
            if not norm.isfinite() and not self.overflowed:
                self._leave_out(self.guard.handle("gradients", moment))
        counted = not self.spoiled
        if complete:
            self._finish(progress, share)
        return counted

    def _forward(self, moment: Moment) -> tuple[dict[str, Tensor], Tensor]:
        try:
            losses = self.losses_of(moment.batch, moment.targets, moment.images)
            return losses, self.criterion.total(losses)
        except NotFiniteError:
            # Other processes go on to compare their totals.
            return {}, torch.tensor(torch.nan, device=self.fabric.device)

    def _note(self, losses: dict[str, Tensor], total: Tensor, moment: Moment, share: float) -> None:
        """Take a batch into the losses of the step, of which it is a part."""
        losses, total = {name: loss.detach() for name, loss in losses.items()}, total.detach()
        part = len(moment.targets) / moment.images.num_images
        if part != 1:
            losses, total = {name: loss / part for name, loss in losses.items()}, total / part
        self.watch.batch(total, losses, moment.targets, steady=share >= self.config.schedule.warmup)
        self._part += part
        if part == self._part:
            self.losses, self.total = losses, total
        else:
            weight = part / self._part
            self.total = self.total.lerp(total, weight)
            for name, loss in losses.items():
                self.losses[name] = self.losses.get(name, loss).lerp(loss, weight)

    def _leave_out(self, why: str) -> None:
        self.spoiled = True
        self.warn(why)

    def _finish(self, progress: Progress, share: float) -> None:
        if self.statistics:
            copy_from_first(self.statistics)
        if self.spoiled:
            progress.skipped += 1
        elif not self.overflowed:
            self.watch.step()
            factor = learning_rate_factor(share, self.config.schedule)
            set_learning_rate(self.optimizer, factor)
            self.optimizer.step()
            self.scaler.stepped()
            self.average.update()
            progress.step += 1
            self.guard.in_a_row = 0
        self.optimizer.zero_grad()
        self.spoiled, self._part = False, 0.0


def clip_gradients(
    fabric: Fabric, model: nn.Module, optimizer: torch.optim.Optimizer, largest_norm: float
) -> Tensor:
    """Scale all gradients together down to a norm; zero switches this off.

    Returns:
        The norm that they had.
    """
    if not largest_norm:
        return whole(
            torch.nn.utils.get_total_norm(
                [each.grad for each in model.parameters() if each.grad is not None]
            )
        )
    norm = fabric.clip_gradients(model, optimizer, max_norm=largest_norm, error_if_nonfinite=False)
    # Fabric's strategies that clip by themselves tell none.
    return torch.zeros(()) if norm is None else whole(norm)


@torch.no_grad()
def copy_from_first(tensors: Sequence[Tensor]) -> None:
    """Give the first process's numbers, such as a norm's statistics, to all: they save the same."""
    # Counts up to 2**53 survive it, too.
    numbers = torch.cat([each.flatten().double() for each in tensors])
    distributed.broadcast(numbers, src=0)
    parts = torch.split(numbers, [each.numel() for each in tensors])
    for each, part in zip(tensors, parts, strict=True):
        each.copy_(part.view_as(each))


def in_any_process(fabric: Fabric, here: bool) -> bool:
    """Whether something holds in one of the processes: one that acted alone would be waited for."""
    return each_in_any_process(fabric, here)[0]


def each_in_any_process(fabric: Fabric, *here: bool) -> list[bool]:
    """`in_any_process` of several things at once."""
    if fabric.world_size == 1:
        return list(here)
    counts = torch.tensor(here, dtype=torch.float32, device=fabric.device)
    found: list[bool] = (fabric.all_reduce(counts, reduce_op="sum") > 0).tolist()
    return found
