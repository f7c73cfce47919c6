"""The fused form's errors against grid_sample's own, and what half precision costs it."""

from functools import partial

import pytest
import torch
from torch.nn.functional import grid_sample

from .forms import (
    anywhere,
    every_backend,
    every_kind,
    exact_results,
    in_steps,
    random_case,
    replaced,
    results,
    tensors,
)


def sampled_by_pytorch(value, shapes, locations, weights):
    """One level through grid_sample, in the dtype of the arguments."""
    ((height, width),) = shapes
    images, _, heads, channels = value.shape
    maps = value.permute(0, 2, 3, 1).reshape(images * heads, channels, height, width)
    grid = (2 * locations - 1)[:, :, :, 0].transpose(1, 2).flatten(0, 1)
    rows = grid_sample(maps, grid, align_corners=False)
    rows = rows * weights[:, :, :, 0].transpose(1, 2).flatten(0, 1)[:, None]
    return rows.sum(-1).view(images, heads * channels, -1).transpose(1, 2)


def relative_error(ours, exact):
    return ((ours.double() - exact).norm() / exact.norm().clamp_min(1e-30)).item()


# Kernels are compiled for each number of channels and each kind: not all of both. More than 64 are
# worked on in slices: 71 are 64 and 7.
@every_backend
@pytest.mark.parametrize(
    ("kind", "channels"),
    [("fused", 4), ("fused", 30), ("fused-boxes", 4), ("fused-boxes", 32), ("fused-boxes", 71)],
)
def test_errors_at_odd_and_usual_channels(kind, backend, channels):
    assert_as_accurate_as_grid_sample(kind, backend, {"channels": channels})


@every_kind
@every_backend
@pytest.mark.parametrize(
    "sizes",
    [
        {"points": [4, 4, 4, 0]},  # 12 samples
        {"points": [4, 4, 4, 6]},  # 18
        {"points": 5},  # 20
        {"points": 1},
        {"shapes": [(9, 7)], "points": 1},
        {"queries": 1},
        {"queries": 131, "heads": 5},
        {"margin": 3.0},
    ],
    ids=str,
)
def test_errors_at_odd_sizes(kind, backend, sizes):
    assert_as_accurate_as_grid_sample(kind, backend, sizes)


@every_backend
def test_errors_of_more_points_than_a_block_has(backend):
    # Kernels are compiled for the size of a block, too.
    sizes = {"shapes": [(9, 7)], "points": 300, "queries": 3}
    assert_as_accurate_as_grid_sample("fused-boxes", backend, sizes)


def assert_as_accurate_as_grid_sample(kind, backend, sizes):
    """At most twice its error, in the output and all gradients."""
    shapes = ((20, 30), (10, 15), (5, 8), (3, 4))
    case = anywhere(random_case(kind, **{"shapes": shapes, "queries": 67} | sizes))
    exact = results(replaced(case, torch.Tensor.double), "reference")
    ours = results(case, backend)
    theirs = results(case, function=partial(in_steps, attend=sampled_by_pytorch))
    for name, truth in exact.items():
        allowed = 2 * relative_error(theirs[name], truth) + torch.finfo(torch.float32).eps
        assert relative_error(ours[name], truth) <= allowed, name


@every_kind
@every_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_costs_no_more_than_rounding_the_results(kind, backend, dtype):
    case = anywhere(random_case(kind, ((40, 60), (20, 30)), queries=33))
    references = case.reference_points
    case = replaced(case, lambda x: x.to(dtype))._replace(reference_points=references)
    ours, exact = results(case, backend), exact_results(case)
    assert [x.dtype for x in ours.values()] == [dtype, dtype, torch.float32, dtype, dtype]
    for name, truth in exact.items():
        allowed = 0.6 * torch.finfo(ours[name].dtype).eps + 1e-5
        assert relative_error(ours[name], truth) <= allowed, name


@every_kind
@every_backend
@pytest.mark.parametrize("name", [None, "value", "reference_points", "sampling_offsets"])
def test_any_mixture_of_dtypes(kind, backend, name):
    case = anywhere(random_case(kind))
    case = case._replace(value=case.value.bfloat16(), attention_logits=case.attention_logits.half())
    if name is not None:
        case = case._replace(**{name: getattr(case, name).double()})
    ours, exact = results(case, backend), exact_results(case)
    assert [x.dtype for x in ours.values()] == [case.value.dtype, *dtypes(case)]
    for part, truth in exact.items():
        # With one argument in double precision the arithmetic is, too.
        floor = 1e-5 if name is None else 1e-12
        assert (
            relative_error(ours[part], truth) <= 0.6 * torch.finfo(ours[part].dtype).eps + floor
        ), part


def dtypes(case):
    return [x.dtype for x in tensors(case).values()]
