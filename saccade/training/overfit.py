"""Learning one batch by heart: what cannot do that does not train."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.recipe_config import OptimizerConfig
from saccade.restricted_matching import may_answer
from saccade.structures import Batch, Predictions, Targets
from saccade.training.losses import SetCriterion
from saccade.training.matcher import NotFiniteError
from saccade.training.optimizer import build_optimizer
from saccade.training.schedule import set_learning_rate
from saccade.training.watch import GradientTracker

MOST_STEPS = 60
MOST_SECONDS = 40.0
LEAST_STEPS = 5
"""Fewer tell nothing."""
WARMUP_STEPS = 5
FALLEN = 0.8
"""The loss must end below this share of where it began."""
SEED = 0
"""The same noise and dropout in every step: the batch to learn is one."""


@dataclass(frozen=True, kw_only=True)
class OverfitResult:
    """What became of one batch."""

    losses: tuple[float, ...]
    """The loss of every step."""
    num_objects: int
    num_matched: int
    """Objects that are matched with a query of the last decoder layer."""
    unreached: tuple[str, ...]
    """Modules that no gradient reached."""

    @property
    def problems(self) -> list[str]:
        """A sentence for each thing that is wrong."""
        first, last = self.losses[0], self.last
        problems = []
        if not last < torch.inf:
            problems.append(
                f"the loss is not finite after {len(self.losses)} steps: lower "
                "optimizer.learning_rate."
            )
        elif len(self.losses) < LEAST_STEPS:
            problems.append(
                f"only {len(self.losses)} steps fit into {MOST_SECONDS:.0f} seconds, which tells "
                "nothing: choose a smaller model or smaller images, or another device."
            )
        elif not last < FALLEN * first:
            problems.append(
                f"the loss went from {first:.4g} to {last:.4g} in {len(self.losses)} steps on one "
                f"batch: expected less than {FALLEN * first:.4g}. Try another "
                "optimizer.learning_rate, and look at the boxes of the dataset."
            )
        if self.unreached:
            problems.append(
                f"no gradient reaches {', '.join(self.unreached)}: freeze these, or look at the "
                "loss weights."
            )
        if not self.num_matched:
            problems.append(
                f"none of the {self.num_objects} objects is matched to a query: look at the boxes "
                "and at the sizes of the images."
            )
        return problems

    @property
    def last(self) -> float:
        """The loss at the end, over three steps."""
        return fmean(self.losses[-3:])

    def __str__(self) -> str:
        return (
            f"In {len(self.losses)} steps on one batch the loss went from {self.losses[0]:.4g} to "
            f"{self.last:.4g}; {self.num_matched} of {self.num_objects} objects are matched, and "
            f"gradients reach {'not ' if self.unreached else ''}every module."
        )


def overfit(
    model: nn.Module,
    losses_of: Callable[[Batch, list[Targets]], dict[str, Tensor]],
    criterion: SetCriterion,
    optimizer_config: OptimizerConfig,
    batch: Batch,
    targets: list[Targets],
) -> OverfitResult:
    """Train `model` on one batch for tens of steps, at most some tens of seconds.

    Args:
        model: On its device; its weights change.
        losses_of: Its unweighted losses.
        criterion: Weighs them, and holds the matcher.
        optimizer_config: As for the run; the learning rate stays the same after five steps.
        batch: On the device of `model`.
        targets: One per image.

    Raises:
        ValueError: If no parameter is trained.
    """
    optimizer = build_optimizer(model, optimizer_config)
    tracker = GradientTracker(model)
    losses: list[float] = []
    started = time.perf_counter()
    model.train()
    while len(losses) < MOST_STEPS and time.perf_counter() - started < MOST_SECONDS:
        torch.manual_seed(SEED)
        try:
            total = criterion.total(losses_of(batch, targets))
        except NotFiniteError:
            total = torch.tensor(torch.nan)
        losses.append(total.item())
        if not total.isfinite():
            break
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        tracker.look()
        set_learning_rate(optimizer, min(1.0, len(losses) / WARMUP_STEPS))
        if optimizer_config.clip_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), optimizer_config.clip_norm)
        optimizer.step()
    return OverfitResult(
        losses=tuple(losses),
        num_objects=sum(len(each.labels) for each in targets),
        num_matched=_num_matched(model, criterion, batch, targets),
        unreached=tuple(tracker.vanished()),
    )


def small_batch(
    batch: Batch, targets: Sequence[Targets], num_images: int = 2, most_pixels: int = 2 * 320 * 320
) -> tuple[Batch, list[Targets]]:
    """The images with the most objects, shrunk until a CPU takes seconds for them, not minutes."""
    order = sorted(range(len(targets)), key=lambda image: -len(targets[image].labels))
    chosen = sorted(order[:num_images])
    kept = [targets[image] for image in chosen]
    sizes = [batch.sizes[image] for image in chosen]
    images = [
        batch.images[image, :, :height, :width]
        for image, (height, width) in zip(chosen, sizes, strict=True)
    ]
    area = len(sizes) * max(h for h, _ in sizes) * max(w for _, w in sizes)
    factor = min(1.0, (most_pixels / area) ** 0.5)
    if factor < 1:
        sizes = [(max(1, round(h * factor)), max(1, round(w * factor))) for h, w in sizes]
        images = [
            F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
            for image, size in zip(images, sizes, strict=True)
        ]
        kept = [_resized(each, size) for each, size in zip(kept, sizes, strict=True)]
    return Batch.from_images(images), kept


def _resized(target: Targets, size: tuple[int, int]) -> Targets:
    height, width = size[0] / target.size[0], size[1] / target.size[1]
    return replace(
        target, boxes=target.boxes * target.boxes.new_tensor([width, height] * 2), size=size
    )


@torch.no_grad()
def _num_matched(
    model: nn.Module, criterion: SetCriterion, batch: Batch, targets: list[Targets]
) -> int:
    torch.manual_seed(SEED)
    predictions: Predictions = model(batch, targets)
    origins = predictions.origins
    allowed = None if origins is None else may_answer(origins, targets)
    try:
        matches = criterion.matcher(predictions.logits, predictions.boxes, targets, allowed)
    except NotFiniteError:
        return 0
    return sum(len(queries) for queries, _ in matches)
