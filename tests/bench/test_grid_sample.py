"""The stand-in calculates, and spends, what transformers' own class does."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.deformable_detr.modeling_deformable_detr import (
    MultiScaleDeformableAttention,
)

from saccade.bench.contenders import LOCATIONS
from saccade.bench.grid_sample import grid_sample_attention
from saccade.bench.op_cases import OpCase, OpShape, build_inputs

SHAPE = OpShape(levels=((9, 7), (4, 3)), num_images=2, num_heads=3, num_channels=6, num_points=2)


def transformers(value, shapes, locations, weights):
    return MultiScaleDeformableAttention()(value, None, shapes, None, locations, weights, 64)


class Calls(TorchDispatchMode):
    """Notes every operation that moves memory, and how much it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, int]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        moving = isinstance(out, torch.Tensor) and not function.is_view
        if moving and out.untyped_storage().data_ptr() not in {
            x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)
        }:
            self.made.append((function.overloadpacket.__name__, out.numel()))
        return out


@pytest.mark.parametrize("sampling", ["local", "uniform"])
def test_outputs_and_gradients_are_those_of_transformers(sampling) -> None:
    inputs = build_inputs(OpCase("small", SHAPE, sampling), torch.float32, torch.device("cpu"))
    results = []
    for function in (grid_sample_attention, transformers):
        value, *rest = (inputs[name].detach().requires_grad_() for name in LOCATIONS)
        out = function(value, SHAPE.levels, *rest)
        results.append([out, *torch.autograd.grad(out, [value, *rest], inputs["grad_out"])])
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_it_makes_the_same_arrays_in_the_same_order() -> None:
    inputs = build_inputs(OpCase("small", SHAPE, "local"), torch.float32, torch.device("cpu"))
    value, *rest = (inputs[name] for name in LOCATIONS)
    made = []
    for function in (grid_sample_attention, transformers):
        with Calls() as calls:
            function(value, SHAPE.levels, *rest)
        made.append(calls.made)
    assert made[0] == made[1]
    assert ("stack", 2 * 3 * 6 * SHAPE.queries * 4) in made[0]


def test_half_precision_is_calculated_in_float32() -> None:
    inputs = build_inputs(OpCase("small", SHAPE, "local"), torch.bfloat16, torch.device("cpu"))
    value, *rest = (inputs[name] for name in LOCATIONS)
    out = grid_sample_attention(value, SHAPE.levels, *rest)
    exact = grid_sample_attention(value.float(), SHAPE.levels, *rest)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, exact.bfloat16())
