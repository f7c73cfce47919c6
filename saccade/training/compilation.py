"""Parts of a detector compiled by torch.compile while it trains."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def compiled(parts: Iterable[nn.Module], backend: str = "inductor") -> Iterator[None]:
    """Inside, parts of a model run as compiled graphs where a gradient is asked for.

    Graphs are made for sizes that vary: batches of other sizes need no new ones. What lies between
    the parts, such as the choice of proposals, is not compiled.

    Args:
        parts: Not inside of each other. Those of a single operation stay as they are.
        backend: Of `torch.compile`.
    """
    changed: list[nn.Module] = []
    try:
        for part in parts:
            if next(part.children(), None) is not None:
                part.forward = _compiled(part.forward, backend)  # type: ignore[method-assign]
                changed.append(part)
        yield
    finally:
        for part in changed:
            del part.forward


def num_graphs() -> int:
    """How many graphs were compiled in this process so far."""
    if "torch._dynamo" not in sys.modules:
        return 0
    counters: dict[str, dict[str, int]] = torch._dynamo.utils.counters
    return counters["stats"]["unique_graphs"]


def _compiled(forward: Callable[..., Any], backend: str) -> Callable[..., Any]:
    fast = torch.compile(forward, dynamic=True, backend=backend)

    def run(*inputs: Any) -> Any:
        return fast(*inputs) if torch.is_grad_enabled() else forward(*inputs)

    return run
