import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from transformers.models.deformable_detr.modeling_deformable_detr import (
    MultiScaleDeformableAttention,
)

from saccade.ops import ms_deform_attn_reference

MAP = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]], dtype=torch.float64)


def sample(x: float, y: float, value: torch.Tensor = MAP) -> tuple[float, float, float]:
    """The map's value at pixel (x, y), 0 being the first centre, and its slopes along x and y."""
    height, width = value.shape
    pixel = torch.tensor([x, y], dtype=torch.float64, requires_grad=True)
    location = (pixel + 0.5) / torch.tensor([width, height])
    out = ms_deform_attn_reference(
        value.reshape(1, -1, 1, 1),
        [(height, width)],
        location.view(1, 1, 1, 1, 1, 2),
        value.new_ones(1, 1, 1, 1, 1),
    )
    (slope,) = torch.autograd.grad(out.sum(), pixel)
    return out.item(), slope[0].item(), slope[1].item()


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (1, 0, (2, 2, 14)),  # on a centre: the slopes towards the next one
        (0.5, 0.5, (6.75, 4.5, 10.5)),
        (2, 1, (32, -32, -32)),  # the last centre: beyond it the map falls to zero
        (-0.5, 0, (0.5, 1, 3.5)),
        (-1, 0, (0, 1, 0)),  # just outside: the slope towards the map
        (2.5, 1.5, (8, -16, -16)),
        (3, 1, (0, 0, 0)),
        (-1.001, 0, (0, 0, 0)),
        (0, 50, (0, 0, 0)),
        (1e30, 0, (0, 0, 0)),
    ],
)
def test_values_worked_out_by_hand(x, y, expected):
    assert sample(x, y) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_location_that_is_not_finite_contributes_nothing(bad):
    assert sample(bad, 0) == (0, 0, 0)
    assert sample(0, bad) == (0, 0, 0)


def test_agrees_with_grid_sample_as_transformers_uses_it(make_case):
    case = make_case(dtype=torch.float64)
    peer = MultiScaleDeformableAttention()

    def theirs(value, shapes, locations, weights):
        return peer(value, None, shapes, None, locations, weights, 64)

    expected = case.out_and_gradients(theirs)
    for ours, exact in zip(case.out_and_gradients(ms_deform_attn_reference), expected, strict=True):
        torch.testing.assert_close(ours, exact)


def test_derivatives_of_first_and_second_order(make_case):
    case = make_case(
        [(3, 4), (2, 1)], queries=2, heads=2, channels=2, points=2, dtype=torch.float64
    ).with_gradients()

    def function(value, locations, weights):
        return ms_deform_attn_reference(value, case.spatial_shapes, locations, weights)

    inputs = (case.value, case.sampling_locations, case.attention_weights)
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def test_half_precision_loses_nothing_but_rounding(make_case):
    case = make_case(dtype=torch.bfloat16)
    out = ms_deform_attn_reference(*case)
    assert out.dtype == torch.bfloat16
    exact = ms_deform_attn_reference(*case.like(torch.float64))
    torch.testing.assert_close(out.double(), exact, rtol=2**-8, atol=1e-5)
