"""What goes wrong without an error, said once as it happens."""

from collections.abc import Callable, Iterable
from statistics import fmean, pvariance

import torch
from torch import Tensor, distributed, nn

from saccade.structures import Targets
from saccade.training.sharding import is_sharded, local

FIRST_STEPS = 200
"""After so many the loss must have moved."""
WINDOW = 20
"""Steps whose losses are compared, the first and the last of these."""
MATCH_STEPS = 100
"""Steps in which some query must have been matched and every module reached by gradients."""
LOOK_EVERY = 10
"""Steps from one look at the gradients to the next."""
VANISHED = 1e-12
"""A gradient none of whose numbers is larger has vanished."""

Warn = Callable[[str], None]


class GradientTracker:
    """Which trained parameters have ever had a gradient that is not (almost) zero."""

    def __init__(self, model: nn.Module) -> None:
        """Nothing is seen yet; `model` keeps its parameters."""
        trained = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
        self.names = [name for name, _ in trained]
        self.parameters = [parameter for _, parameter in trained]
        self.sharded = is_sharded(model)
        self._reached: Tensor | None = None

    def look(self) -> None:
        """Look at the present gradients, without waiting for the device."""
        zero = torch.zeros((), device=self.parameters[0].device)
        grads = [(i, local(p.grad)) for i, p in enumerate(self.parameters) if p.grad is not None]
        # Of a small weight a process may hold nothing.
        grads = [(i, grad) for i, grad in grads if grad.numel()]
        largest = [zero] * len(self.parameters)
        norms = torch._foreach_norm([grad for _, grad in grads], float("inf")) if grads else ()
        for (index, _), norm in zip(grads, norms, strict=True):
            largest[index] = norm.float()
        largest_numbers = torch.stack(largest)
        if self.sharded:
            distributed.all_reduce(largest_numbers, distributed.ReduceOp.MAX)
        reached = largest_numbers > VANISHED
        self._reached = reached if self._reached is None else self._reached | reached

    def vanished(self) -> list[str]:
        """The largest modules of which no parameter was reached, by their path in the model."""
        seen = [] if self._reached is None else self._reached.tolist()
        reached = {name for name, each in zip(self.names, seen, strict=True) if each}
        if not reached:
            return ["the detector"]
        alive = {path for name in reached for path in _above(name)}
        found: dict[str, None] = {}
        for name in self.names:
            if name in reached:
                continue
            dead = [path for path in _above(name) if path not in alive]
            if dead:
                found[dead[0]] = None
        return list(found)


class Watch:
    """Warns, once each, of a loss that does not move, matching that never happens and gradients
    that vanish, all in the first steps of a run."""

    def __init__(self, model: nn.Module, warn: Warn, first_step: int = 0) -> None:
        """Begin with the run's first step; a run that was resumed later is not watched.

        Args:
            model: The detector that trains.
            warn: Told each sentence.
            first_step: Steps that the run has taken before.
        """
        self.warn = warn
        self.steps = first_step
        self.resumed = first_step > 0
        self.tracker = GradientTracker(model)
        self.losses: list[float] = []
        self._of_step: list[Tensor] = []
        self._objects = 0
        self._matched: Tensor | None = None

    def batch(
        self, total: Tensor, losses: dict[str, Tensor], targets: Iterable[Targets], steady: bool
    ) -> None:
        """Note a batch.

        Args:
            total: Its loss.
            losses: The terms of it.
            targets: One per image.
            steady: Whether the learning rate has been warmed up, since when the loss must move.
        """
        if self.resumed:
            return
        if steady and len(self.losses) < FIRST_STEPS:
            self._of_step.append(total.detach())
        if self.steps < MATCH_STEPS:
            self._objects += sum(len(each.labels) for each in targets)
            # A sum over no pair is exactly zero.
            matched = losses["loss_bbox"].detach() > 0
            self._matched = matched if self._matched is None else self._matched | matched

    def step(self) -> None:
        """Note that gradients are complete, before the optimiser uses them."""
        if self.resumed:
            return
        self.steps += 1
        if self.steps <= MATCH_STEPS and self.steps % LOOK_EVERY == 0:
            self.tracker.look()
        if self.steps == MATCH_STEPS:
            self._judge_matches()
            self._judge_gradients()
        if self._of_step:
            self.losses.append(torch.stack(self._of_step).mean().item())
            self._of_step = []
            if len(self.losses) == FIRST_STEPS:
                self._judge_loss()

    def _judge_matches(self) -> None:
        if self._matched is None or self._matched:
            return
        if self._objects:
            self.warn(
                f"none of the {self._objects} objects in the first {MATCH_STEPS} steps was matched "
                "to a query: the tokens that the detector selects miss them all. Look at the boxes "
                "and at the sizes of the images."
            )
        else:
            self.warn(
                f"no image of the first {MATCH_STEPS} steps has an object, so the detector learns "
                "background alone: look at the annotations."
            )

    def _judge_gradients(self) -> None:
        vanished = self.tracker.vanished()
        if vanished:
            self.warn(
                f"no gradient has reached {', '.join(vanished)} in the first {MATCH_STEPS} steps: "
                "these do not learn. Freeze them, or look at the loss weights."
            )

    def _judge_loss(self) -> None:
        if not has_fallen(self.losses[:WINDOW], self.losses[-WINDOW:]):
            first, last = fmean(self.losses[:WINDOW]), fmean(self.losses[-WINDOW:])
            self.warn(
                f"the loss has not fallen in {FIRST_STEPS} steps ({first:.4g} at first, {last:.4g} "
                "now): the learning rate may be far too low or too high, or the boxes wrong. "
                "`saccade train --check` tries one batch."
            )


def has_fallen(first: list[float], last: list[float]) -> bool:
    """Whether the mean fell by more than twice the standard error of the difference."""
    error = (pvariance(first) / len(first) + pvariance(last) / len(last)) ** 0.5
    return fmean(first) - fmean(last) > 2 * error


def _above(name: str) -> list[str]:
    """The modules that hold a parameter, the outermost first.

    >>> _above("decoder.heads.0.bias")
    ['decoder', 'decoder.heads', 'decoder.heads.0']
    """
    parts = name.split(".")[:-1]
    return [".".join(parts[: end + 1]) for end in range(len(parts))]
