"""Activations that are computed again in the backward pass instead of kept (Chen et al. 2016)."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from saccade.training.forwards import Forward, replaced
from saccade.training.guards import running_statistics


def recomputing(parts: Iterable[nn.Module]) -> AbstractContextManager[None]:
    """Inside, parts of a model keep their inputs alone; the backward pass runs them once more.

    Outputs, gradients, dropout and the statistics of norms are the same as otherwise. Nothing
    changes where no gradient is asked for.

    Args:
        parts: See `replaced`; each with a parameter.
    """
    return replaced(parts, _recomputed)


def _recomputed(part: nn.Module, forward: Forward) -> Forward:
    # Torch takes the device, whose random numbers are to be repeated, from a tensor.
    witness = next(part.parameters())
    statistics = running_statistics(part)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _keeping(statistics)

    def run(_: Tensor, *inputs: Any) -> Any:
        return forward(*inputs)

    def recomputed(*inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs)
        return checkpoint(run, witness, *inputs, use_reentrant=False, context_fn=contexts)

    return recomputed


@contextmanager
def _keeping(statistics: list[Tensor]) -> Iterator[None]:
    """What norms count along was counted in the forward pass already."""
    kept = [each.clone() for each in statistics]
    try:
        yield
    finally:
        for statistic, before in zip(statistics, kept, strict=True):
            # Not the tensor itself, whose changes the backward pass looks out for.
            statistic.data.copy_(before)
