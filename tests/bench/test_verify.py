import dataclasses

import pytest
import torch

from saccade.bench.contenders import BASELINE, LOCATIONS, Contender, fused, plain, unfused
from saccade.bench.op_cases import OpCase, OpShape, build_inputs
from saccade.bench.verify import Expected

CPU = torch.device("cpu")
SHAPE = OpShape(levels=((12, 9), (6, 5)), num_heads=2, num_channels=4, num_points=2)


def differences(contender: Contender, dtype: torch.dtype = torch.float32, shape: OpShape = SHAPE):
    inputs = build_inputs(OpCase("small", shape, "local"), dtype, CPU)
    return Expected(shape.levels, inputs).compare(contender, shape, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize(
    "contender", [BASELINE, *(f("reference") for f in (plain, unfused, fused))]
)
def test_what_is_right_may_be_timed(contender, boxed: bool, dtype: torch.dtype) -> None:
    shape = dataclasses.replace(SHAPE, boxed=boxed, num_queries=40)
    assert differences(contender, dtype, shape).problem(backward=True) is None


def test_a_wrong_output_is_refused_in_both_directions() -> None:
    wrong = dataclasses.replace(BASELINE, function=lambda *a: 1.001 * BASELINE.function(*a))
    found = differences(wrong)
    assert found.problem(backward=False) == "wrong output: differs by 1e-03 of its norm"
    assert found.problem(backward=True) == found.problem(backward=False)


def test_wrong_gradients_are_refused_where_there_are_any() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, out):
            return out.clone()

        @staticmethod
        def backward(ctx, grad_out):
            return 2 * grad_out

    def function(*arguments):
        return Doubled.apply(BASELINE.function(*arguments))

    found = differences(Contender("doubled", LOCATIONS, function))
    assert found.problem(backward=False) is None
    assert found.problem(backward=True) == "wrong gradients: differ by 1e+00 of their norm"


def test_nan_is_wrong() -> None:
    function = BASELINE.function
    bad = dataclasses.replace(BASELINE, function=lambda *a: torch.nan * function(*a))
    assert "wrong output" in differences(bad).problem(backward=False)


def test_one_that_throws_is_told_by_what_it_said() -> None:
    def function(levels, value, locations, weights):
        raise RuntimeError("no kernel image is available\nfor this device")

    found = differences(Contender("thrower", LOCATIONS, function))
    assert found.problem(backward=False) == "it failed: no kernel image is available"


def test_determinism_lasts_as_long_as_the_call() -> None:
    seen = []

    def function(*arguments):
        seen.append(
            (
                torch.are_deterministic_algorithms_enabled(),
                torch.utils.deterministic.fill_uninitialized_memory,
            )
        )
        return BASELINE.function(*arguments)

    inputs = build_inputs(OpCase("small", SHAPE, "local"), torch.float32, CPU)
    Contender("watched", LOCATIONS, function, deterministic=True).forward(SHAPE.levels, inputs)
    assert seen == [(True, False)]
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
