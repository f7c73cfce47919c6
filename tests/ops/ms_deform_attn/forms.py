"""The operator's two forms under one roof: cases, their results, and what the oracle says."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from saccade.ops import ms_deform_attn, ms_deform_attn_fused

from .conftest import Case, Shapes
from .oracle import attend, attend_fused

FORMS = ("plain", "fused", "fused-boxes")
BACKENDS = ("reference", "cpu")

every_form = pytest.mark.parametrize("form", FORMS)
every_kind = pytest.mark.parametrize("kind", FORMS[1:])
every_backend = pytest.mark.parametrize("backend", BACKENDS)


class FusedCase(NamedTuple):
    """Arguments of ms_deform_attn_fused, in its order."""

    value: Tensor
    spatial_shapes: Shapes
    reference_points: Tensor
    sampling_offsets: Tensor
    attention_logits: Tensor
    points_per_level: Sequence[int] | None = None
    box_scale: float = 0.5


AnyCase = Case | FusedCase


def tensors(case: AnyCase) -> dict[str, Tensor]:
    return {name: x for name, x in case._asdict().items() if isinstance(x, Tensor)}


def replaced(case, function):
    """The case with ``function`` of each of its tensors."""
    return case._replace(**{name: function(x) for name, x in tensors(case).items()})


def leaves_of(case):
    """A copy that asks for gradients. Strides and storage offsets stay."""
    return replaced(case, lambda x: x.detach().requires_grad_())


def registered(case):
    name = "ms_deform_attn" if isinstance(case, Case) else "ms_deform_attn_fused"
    return (
        getattr(torch.ops.saccade, name).default,
        getattr(torch.ops.saccade, f"{name}_backward").default,
    )


def call(case: AnyCase, backend: str = "auto") -> Tensor:
    function = ms_deform_attn if isinstance(case, Case) else ms_deform_attn_fused
    return function(*case, backend=backend)


def upstream_of(out: Tensor) -> Tensor:
    """A fixed, uneven gradient for the output."""
    return torch.linspace(-1, 2, out.numel(), dtype=torch.float64).cos().view(out.shape).to(out)


def results(case: AnyCase, backend: str = "auto", function=None) -> dict[str, Tensor]:
    """Output and gradient of every tensor argument."""
    leaves = leaves_of(case)
    out = call(leaves, backend) if function is None else function(*leaves)
    grads = torch.autograd.grad(out, list(tensors(leaves).values()), upstream_of(out))
    return {"out": out.detach(), **dict(zip(tensors(case), grads, strict=True))}


def exact_results(case: AnyCase) -> dict[str, Tensor]:
    """What the oracle makes of the very numbers in the case."""
    value = case.value
    queries = case[2].shape[1]
    upstream = upstream_of(value.new_empty(value.shape[0], queries, value[0, 0].numel()))
    oracle = attend if isinstance(case, Case) else attend_fused
    arrays = oracle(*case, upstream)
    names = ["out", *tensors(case)]
    return {name: torch.from_numpy(x) for name, x in zip(names, arrays, strict=True)}


def assert_same(ours, theirs, rtol=0.0, atol=0.0, parts=None):
    for name in theirs:
        if parts is None or name in parts:
            torch.testing.assert_close(
                ours[name].to(theirs[name].dtype),
                theirs[name],
                rtol=rtol,
                atol=atol,
                equal_nan=True,
                msg=lambda m, name=name: f"{name}: {m}",
            )


def express(form, value, shapes, points, locations, logits):
    """A case of this form that samples ``locations`` [B, Q, M, K, 2].

    Its references are multiples of 1/8 and its boxes' sides powers of two, so that no rounding
    moves a sample where the maps' sides and ``points`` are powers of two as well.
    """
    images, queries, heads = locations.shape[:3]
    size = (images, queries, heads, len(shapes))
    if form == "plain":
        weights = logits.softmax(-1).view(*size, points[0])
        return Case(value, list(shapes), locations.view(*weights.shape, 2), weights)
    levels = torch.arange(len(shapes)).repeat_interleave(torch.tensor(points))
    generator = torch.Generator().manual_seed(1)
    pick = (images, queries, len(shapes), 2)
    centres = torch.randint(-1, 10, pick, generator=generator).to(locations) / 8
    from_centre = locations - centres[:, :, levels][:, :, None]
    if form == "fused":
        sides = torch.tensor(shapes).flip(-1)[levels]
        return FusedCase(value, list(shapes), centres, from_centre * sides, logits, points)
    boxes = 2.0 ** -torch.randint(1, 4, pick, generator=generator).to(locations)
    reach = boxes[:, :, levels] * 0.5 / torch.tensor(points)[levels][:, None]
    references = torch.cat([centres, boxes], -1)
    return FusedCase(
        value, list(shapes), references, from_centre / reach[:, :, None], logits, points
    )


def random_case(
    form: str,
    shapes: Shapes = ((7, 9), (3, 5)),
    images: int = 2,
    queries: int = 7,
    heads: int = 2,
    channels: int = 4,
    points: int | Sequence[int] = 4,
    dtype: torch.dtype = torch.float32,
    margin: float = 0.3,
) -> AnyCase:
    """Random samples in and, by ``margin`` of the map, around the maps."""
    points = [points] * len(shapes) if isinstance(points, int) else list(points)
    generator = torch.Generator().manual_seed(0)
    tokens = sum(height * width for height, width in shapes)
    value = torch.randn(images, tokens, heads, channels, generator=generator)
    size = (images, queries, heads, sum(points))
    locations = torch.rand(*size, 2, generator=generator) * (1 + 2 * margin) - margin
    logits = torch.randn(*size, generator=generator)
    case = express(form, value, shapes, points, locations, logits)
    return replaced(case, lambda x: x.to(dtype))


def case_without_levels(form: str, references: int = 0) -> AnyCase:
    value, samples = torch.ones(2, 0, 2, 4), (2, 7, 2, 0)
    if form == "plain":
        return Case(value, [], torch.ones(*samples, 3, 2), torch.ones(*samples, 3))
    numbers = 2 if form == "fused" else 4
    centres = torch.ones(2, 7, references, numbers)
    return FusedCase(value, [], centres, torch.ones(*samples, 2), torch.ones(*samples))


def anywhere(case):
    """The case with references that are no round numbers."""
    generator = torch.Generator().manual_seed(5)
    references = case.reference_points
    noise = torch.rand(references.shape, generator=generator) * 0.1
    return case._replace(reference_points=references + noise.to(references))


def in_steps(value, shapes, references, offsets, logits, points, box_scale=0.5, *, attend):
    """Softmax, then for one level after another its locations and the plain form."""
    attention = logits.softmax(-1).split(points, -1)
    values = value.split([height * width for height, width in shapes], 1)
    out = 0
    for level, (steps, (height, width)) in enumerate(
        zip(offsets.split(points, -2), shapes, strict=True)
    ):
        reference = references[:, :, level if references.shape[2] > 1 else 0, None, None]
        if reference.shape[-1] == 2:
            locations = reference + steps / steps.new_tensor([width, height])
        else:
            locations = reference[..., :2] + (
                steps / points[level] * reference[..., 2:] * box_scale
            )
        weights = attention[level][:, :, :, None]
        out = out + attend(values[level], [(height, width)], locations[:, :, :, None], weights)
    return out
