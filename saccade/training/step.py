"""One step of the optimiser: forward, backward, clip, step."""

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from saccade.run_config import RunConfig
from saccade.training.checkpoint import Progress
from saccade.training.guards import Moment, NonFiniteGuard
from saccade.training.losses import SetCriterion
from saccade.training.matcher import NotFiniteError
from saccade.training.optimizer import learning_rate_factor, set_learning_rate
from saccade.training.watch import Warn, Watch


class Stepper:
    """Takes a run's steps, each over `accumulate` batches; the guards look on."""

    def __init__(
        self,
        fabric: Fabric,
        losses_of: nn.Module,
        optimizer: torch.optim.Optimizer,
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
            criterion: Weighs the losses.
            config: The run.
            guard: Told what is not finite.
            watch: Told of every batch and step.
            warn: Told, in the process that knows, that a step is left out.
        """
        self.fabric = fabric
        self.losses_of = losses_of
        self.optimizer = optimizer
        self.criterion = criterion
        self.config = config
        self.guard = guard
        self.watch = watch
        self.warn = warn
        self.spoiled = False
        """Whether the step that the next batch belongs to is left out."""
        self.losses: dict[str, Tensor] = {}
        self.total = torch.zeros(())

    def take(self, moment: Moment, progress: Progress, share: float, complete: bool) -> bool:
        """Add a batch to the step, and take the step if it is complete.

        Args:
            moment: The batch.
            progress: Advanced by the step.
            share: Of the run that has passed, which decides on the learning rate.
            complete: Whether this is the step's last batch.

        Returns:
            Whether the batch counted; its losses are then in `losses` and `total`.

        Raises:
            ValueError: If a loss or gradient is not finite, as `NonFiniteGuard.handle` says.
        """
        if not self.spoiled:
            self.guard.before()
            torch.manual_seed(moment.seed)
            with self.fabric.no_backward_sync(self.losses_of, enabled=not complete):
                self._forward(moment)
                if in_any_process(self.fabric, not self.total.isfinite().item()):
                    self._leave_out(self.guard.handle("loss", moment))
                else:
                    self.fabric.backward(self.total / self.config.accumulate)
                    steady = share >= self.config.schedule.warmup
                    self.watch.batch(self.total, self.losses, moment.targets, steady)
        if complete and not self.spoiled:
            largest = self.config.optimizer.clip_norm
            norm = clip_gradients(self.fabric, self.losses_of, self.optimizer, largest)
            if not norm.isfinite():
                self._leave_out(self.guard.handle("gradients", moment))
        counted = not self.spoiled
        if complete:
            self._finish(progress, share)
        return counted

    def _forward(self, moment: Moment) -> None:
        try:
            self.losses = self.losses_of(moment.batch, moment.targets)
            self.total = self.criterion.total(self.losses)
        except NotFiniteError:
            # Other processes go on to compare their totals.
            self.total = torch.tensor(torch.nan, device=self.fabric.device)

    def _leave_out(self, why: str) -> None:
        self.spoiled = True
        self.warn(why)

    def _finish(self, progress: Progress, share: float) -> None:
        if self.spoiled:
            progress.skipped += 1
        else:
            self.watch.step()
            factor = learning_rate_factor(share, self.config.schedule)
            set_learning_rate(self.optimizer, factor)
            self.optimizer.step()
            progress.step += 1
            self.guard.in_a_row = 0
        self.optimizer.zero_grad()
        self.spoiled = False


def clip_gradients(
    fabric: Fabric, model: nn.Module, optimizer: torch.optim.Optimizer, largest_norm: float
) -> Tensor:
    """Scale all gradients together down to a norm; zero switches this off.

    Returns:
        The norm that they had.
    """
    if not largest_norm:
        return torch.nn.utils.get_total_norm(
            [each.grad for each in model.parameters() if each.grad is not None]
        )
    norm = fabric.clip_gradients(model, optimizer, max_norm=largest_norm, error_if_nonfinite=False)
    # Fabric's strategies that clip by themselves tell none.
    return torch.zeros(()) if norm is None else norm


def in_any_process(fabric: Fabric, here: bool) -> bool:
    """Whether something holds in one of the processes: one that acted alone would be waited for."""
    if fabric.world_size == 1:
        return here
    count = torch.tensor(float(here), device=fabric.device)
    return bool(fabric.all_reduce(count, reduce_op="sum") > 0)
