"""Activations that are computed again in the backward pass instead of kept (Chen et al. 2016)."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from saccade.training.guards import running_statistics


@contextmanager
def recomputing(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, parts of a model keep their inputs alone; the backward pass runs them once more.

    Outputs, gradients, dropout and the statistics of norms are the same as otherwise, and so are
    the names of weights. Nothing changes where no gradient is asked for.

    Args:
        parts: Not inside of each other; each with a parameter. Those of a single operation, whose
            inputs are all that they keep anyway, stay as they are.
    """
    changed: list[nn.Module] = []
    try:
        for part in parts:
            if next(part.children(), None) is None:
                continue
            part.forward = _recomputed(part)  # type: ignore[method-assign]
            changed.append(part)
        yield
    finally:
        for part in changed:
            del part.forward


def _recomputed(part: nn.Module) -> Callable[..., Any]:
    forward = part.forward
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
