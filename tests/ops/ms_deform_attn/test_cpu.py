"""The compiled kernels, through the public operator, against the reference in float64."""

import pytest
import torch
from torch.autograd import gradcheck
from transformers.models.deformable_detr.modeling_deformable_detr import (
    MultiScaleDeformableAttention,
)

from saccade.ops import ms_deform_attn, ms_deform_attn_reference

NAMES = ("out", "grad_value", "grad_locations", "grad_weights")


def kernels(*arguments):
    return ms_deform_attn(*arguments, backend="cpu")


def grid_sample(value, shapes, locations, weights):
    return MultiScaleDeformableAttention()(value, None, shapes, None, locations, weights, 64)


def relative_error(x, exact):
    return ((x.double() - exact).norm() / exact.norm().clamp_min(1e-30)).item()


def assert_as_accurate_as_grid_sample(case):
    exact = case.like(torch.float64).out_and_gradients(ms_deform_attn_reference)
    theirs = case.out_and_gradients(grid_sample)
    ours = case.out_and_gradients(kernels)
    floor = torch.finfo(torch.float32).eps
    for name, one, other, truth in zip(NAMES, ours, theirs, exact, strict=True):
        error, allowed = relative_error(one, truth), 2 * relative_error(other, truth) + floor
        assert error <= allowed, f"{name}: {error:.1e} > {allowed:.1e}"


@pytest.mark.parametrize("channels", [1, 4, 32])
def test_accuracy_at_odd_and_usual_channels(make_case, channels):
    assert_as_accurate_as_grid_sample(make_case(channels=channels, queries=67))


@pytest.mark.parametrize(
    "sizes",
    [
        {"shapes": [(7, 9)]},
        {"points": 1},
        {"shapes": [(1, 1)], "points": 1, "heads": 1, "images": 1},
        {"shapes": [(9, 7), (5, 4), (3, 2), (2, 1)], "points": 5},
        {"shapes": [(1, 40), (40, 1)]},
        {"queries": 1},
        {"queries": 131, "heads": 5},  # two full blocks and a rest
        {"margin": 3.0},  # most samples outside
    ],
)
def test_accuracy_at_odd_sizes(make_case, sizes):
    assert_as_accurate_as_grid_sample(make_case(**sizes))


def test_gradients_are_exact_in_double_precision(make_case):
    case = make_case(
        [(3, 4), (2, 1)], queries=3, heads=2, channels=7, points=2, dtype=torch.float64
    ).with_gradients()

    def function(value, locations, weights):
        return kernels(value, case.spatial_shapes, locations, weights)

    assert gradcheck(function, (case.value, case.sampling_locations, case.attention_weights))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_value_with_full_precision_locations(make_case, dtype):
    case = make_case(queries=67)
    case = case._replace(
        value=case.value.to(dtype), attention_weights=case.attention_weights.to(dtype)
    )
    results = case.out_and_gradients(kernels)
    assert [x.dtype for x in results] == [dtype, dtype, torch.float32, dtype]
    exact = case.like(torch.float64).out_and_gradients(ms_deform_attn_reference)
    for name, one, truth in zip(NAMES, results, exact, strict=True):
        # grad_locations is kept in float32; only the incoming gradient was rounded.
        assert relative_error(one, truth) <= torch.finfo(dtype).eps, name
