"""Right first, then fast: nothing is timed that gives other numbers than grid_sample."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .contenders import OFFSETS, Contender, Shapes
from .grid_sample import grid_sample_attention
from .op_cases import Inputs, OpShape, locations_and_weights

_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4}
# A sum in half precision is rounded by up to 0.4 %; and of two million samples, some are so near
# to a kink that rounding chooses their gradient.
_HALF_TOLERANCE = 0.03
# Locations in float16 are up to 0.04 tokens off on a map 167 wide, and gradients jump at tokens.
_ROUNDED_TOLERANCE = 0.3


@dataclass(frozen=True)
class Differences:
    """How far a contender is from grid_sample: norm of the difference by norm of the right one."""

    out: float
    gradients: float
    """The largest of all gradients."""
    tolerance: float
    failure: str | None = None
    """What it said when it could not calculate at all."""

    def problem(self, backward: bool) -> str | None:
        """Why its speed cannot be reported, or None."""
        if self.failure is not None:
            return f"it failed: {self.failure}"
        if not self.out <= self.tolerance:
            return f"wrong output: differs by {self.out:.0e} of its norm"
        if backward and not self.gradients <= self.tolerance:
            return f"wrong gradients: differ by {self.gradients:.0e} of their norm"
        return None


class Expected:
    """Output and gradients of everything, through grid_sample."""

    def __init__(self, levels: Shapes, inputs: Inputs) -> None:
        leaves = {name: inputs[name].detach().requires_grad_() for name in OFFSETS}
        value, *raw = leaves.values()
        locations, weights = locations_and_weights(levels, *raw)
        out = grid_sample_attention(value, levels, locations, weights)
        wanted = {
            **leaves,
            "sampling_locations": locations,
            "attention_weights": weights,
        }
        gradients = torch.autograd.grad(out, list(wanted.values()), inputs["grad_out"])
        self.out = out.detach()
        self.gradients: Inputs = dict(zip(wanted, gradients, strict=True))

    def compare(self, contender: Contender, shape: OpShape, inputs: Inputs) -> Differences:
        """Run a contender once; ``inputs`` are those that this was made from."""
        prepared = contender.prepare(inputs, shape)
        tolerance = _tolerance(contender, self.out.dtype)
        try:
            out, gradients = contender.forward_backward(shape.levels, prepared)
        except RuntimeError as error:
            # What compiled code throws, and what torch does when memory is short.
            said = (str(error).splitlines() or ["no message"])[0]
            return Differences(math.inf, math.inf, tolerance, said)
        expected = contender.prepare({**inputs, **self.gradients}, shape)
        differences = [
            _difference(gradient, expected[name])
            for name, gradient in zip(contender.differentiated, gradients, strict=True)
        ]
        # A contender may have been given more queries than there are, to fill its blocks.
        out = out[:, : self.out.shape[1]]
        return Differences(_difference(out, self.out), max(differences), tolerance)


def _difference(found: Tensor, expected: Tensor) -> float:
    norm = torch.linalg.vector_norm
    exact = expected.double()
    return (norm(found.double() - exact) / norm(exact)).item()


def _tolerance(contender: Contender, dtype: torch.dtype) -> float:
    if dtype in _TOLERANCE:
        return _TOLERANCE[dtype]
    return _ROUNDED_TOLERANCE if contender.rounds_locations else _HALF_TOLERANCE
