"""Parts of a detector compiled by torch.compile while it trains."""

import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from saccade.training.forwards import Forward, replaced


def compiled(parts: Iterable[nn.Module], backend: str = "inductor") -> AbstractContextManager[None]:
    """Inside, parts of a model run as compiled graphs where a gradient is asked for.

    Graphs are made for sizes that vary: batches of other sizes need no new ones. What lies between
    the parts, such as the choice of proposals, is not compiled.

    Args:
        parts: See `replaced`.
        backend: Of `torch.compile`.
    """

    def change(_: nn.Module, forward: Forward) -> Forward:
        fast = torch.compile(forward, dynamic=True, backend=backend)

        def run(*inputs: Any) -> Any:
            return fast(*inputs) if torch.is_grad_enabled() else forward(*inputs)

        return run

    return replaced(parts, change)


def num_graphs() -> int:
    """How many graphs were compiled in this process so far."""
    if "torch._dynamo" not in sys.modules:
        return 0
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]
