"""Who is measured: one function and the inputs it takes, whether ours, PyTorch's or a peer's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saccade.ops import ms_deform_attn, ms_deform_attn_fused
from saccade.ops.ms_deform_attn import Backend
from saccade.ops.ms_deform_attn.checks import Shapes as Shapes

from .grid_sample import grid_sample_attention
from .op_cases import Inputs, OpShape, locations_and_weights

LOCATIONS = ("value", "sampling_locations", "attention_weights")
"""What the plain form takes."""
OFFSETS = ("value", "reference_points", "sampling_offsets", "attention_logits")
"""What the fused form takes."""


def _as_they_are(inputs: Inputs, _shape: OpShape) -> Inputs:
    return inputs


@dataclass(frozen=True)
class Contender:
    """Something that calculates the operator."""

    name: str
    arguments: tuple[str, ...]
    """Names of the inputs it takes."""
    function: Callable[..., Tensor]
    """Called with the levels' (height, width) and these inputs; gives the output [B, Q, M*D]."""
    deterministic: bool = False
    """Whether to run it under ``torch.use_deterministic_algorithms``."""
    prepare: Callable[[Inputs, OpShape], Inputs] = _as_they_are
    """Brings the inputs into a layout of its own, which is not timed."""
    waits: bool = False
    """Whether it waits for the GPU, as for copies to it: no CUDA graph can hold that."""
    rounds_locations: bool = False
    """Whether its interface rounds locations to half precision when the rest is."""
    unfused: str | None = None
    """Of a fused form: the name of who calculates the same in single steps."""

    @property
    def differentiated(self) -> tuple[str, ...]:
        """Inputs that receive a gradient: all but the references, as in an encoder."""
        return tuple(name for name in self.arguments if name != "reference_points")

    def forward(self, levels: Shapes, inputs: Inputs) -> Tensor:
        """The output, without a graph for gradients."""
        with torch.no_grad(), _determinism(self.deterministic):
            return self.function(levels, *(inputs[name] for name in self.arguments))

    def forward_backward(self, levels: Shapes, inputs: Inputs) -> tuple[Tensor, list[Tensor]]:
        """The output, and the gradients of the inputs that are ``differentiated``."""
        leaves = {name: inputs[name].detach() for name in self.arguments}
        for name in self.differentiated:
            leaves[name].requires_grad_()
        with _determinism(self.deterministic):
            out = self.function(levels, *leaves.values())
            wanted = [leaves[name] for name in self.differentiated]
            return out.detach(), list(torch.autograd.grad(out, wanted, inputs["grad_out"]))


@contextmanager
def _determinism(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    # Filling what is overwritten at once would be timed too.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


BASELINE = Contender(
    "grid_sample",
    LOCATIONS,
    lambda levels, value, *rest: grid_sample_attention(value, levels, *rest),
)
"""What every ratio is to."""


def plain(backend: Backend) -> Contender:
    """Our operator on locations and weights."""

    def function(levels: Shapes, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn(value, levels, locations, weights, backend=backend)

    return Contender(backend, LOCATIONS, function)


def unfused(backend: Backend) -> Contender:
    """Softmax and locations, then our operator: what the fused form replaces."""

    def function(levels: Shapes, value: Tensor, *rest: Tensor) -> Tensor:
        locations, weights = locations_and_weights(levels, *rest)
        return ms_deform_attn(value, levels, locations, weights, backend=backend)

    return Contender(f"{backend} unfused", OFFSETS, function)


def fused(backend: Backend) -> Contender:
    """Our fused operator."""

    def function(
        levels: Shapes, value: Tensor, references: Tensor, offsets: Tensor, logits: Tensor
    ) -> Tensor:
        return ms_deform_attn_fused(value, levels, references, offsets, logits, backend=backend)

    return Contender(f"{backend} fused", OFFSETS, function, unfused=unfused(backend).name)


def of_backend(backend: Backend) -> list[Contender]:
    """All that is measured of one of our backends."""
    if backend == "reference":
        return [replace(plain(backend), waits=True)]
    found = [plain(backend), unfused(backend), fused(backend)]
    if backend == "triton":
        in_order = Contender(
            "triton deterministic", LOCATIONS, found[0].function, deterministic=True
        )
        found.insert(1, in_order)
    return found
