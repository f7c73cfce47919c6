"""Eq. 3 of Deformable DETR a second time: one sample after another, in float64, in numpy.

It shares neither code nor formulation with the library. A map is continued between its centres as
a sum of tents, one per pixel: pixel j reaches x with weight max(0, 1 - |x - j|). Derivatives are
the chain rule by hand; at a tent's kinks they are those to the right, which is the slope towards
the next centre, and at pixel -1 the slope of the first.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Shapes = Sequence[tuple[int, int]]


class _Reach(NamedTuple):
    """The centres of one axis that a sample reaches, their weights and the weights' slopes."""

    centres: NDArray[np.int64]
    weight: Array
    slope: Array


def _reach(position: float, size: int) -> _Reach:
    distance = position - np.arange(size)
    centres = np.flatnonzero((distance >= -1) & (distance < 1))
    near = distance[centres]
    return _Reach(centres, 1 - abs(near), np.where(near < 0, 1.0, -1.0))


def _float64(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def _sample(
    value: Array,
    shapes: Shapes,
    levels: NDArray[np.int64],
    locations: Array,
    weights: Array,
    upstream: Array,
) -> tuple[Array, Array, Array, Array]:
    """Output and gradients; sample k of [B, Q, M, K] lies in level ``levels[k]``."""
    starts = np.cumsum([0] + [height * width for height, width in shapes])
    out = np.zeros((*weights.shape[:3], value.shape[-1]))
    grad_value, grad_locations = np.zeros_like(value), np.zeros_like(locations)
    grad_weights = np.zeros_like(weights)
    for b, q, m, k in np.ndindex(*weights.shape):
        if not np.isfinite(locations[b, q, m, k]).all():
            continue
        height, width = shapes[levels[k]]
        x, y = locations[b, q, m, k] * (width, height) - 0.5
        across, down = _reach(x, width), _reach(y, height)
        rows = starts[levels[k]] + down.centres[:, None] * width + across.centres
        near = value[b, rows, m]
        mixed = np.einsum("i,j,ijd->d", down.weight, across.weight, near)
        slope_x = np.einsum("i,j,ijd->d", down.weight, across.slope, near)
        slope_y = np.einsum("i,j,ijd->d", down.slope, across.weight, near)
        weight, grad = weights[b, q, m, k], upstream[b, q, m]
        out[b, q, m] += weight * mixed
        grad_value[b, rows, m] += weight * np.einsum("i,j,d->ijd", down.weight, across.weight, grad)
        grad_weights[b, q, m, k] = grad @ mixed
        grad_locations[b, q, m, k] = (
            weight * (grad @ slope_x) * width,
            weight * (grad @ slope_y) * height,
        )
    return out, grad_value, grad_locations, grad_weights


def attend(
    value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor, upstream: Tensor
) -> list[Array]:
    """Output and gradients of value, locations and weights; ``upstream`` is the output's."""
    points = weights.shape[-1]
    levels = np.repeat(np.arange(len(shapes)), points)
    out, grad_value, grad_locations, grad_weights = _sample(
        _float64(value),
        shapes,
        levels,
        _float64(locations.flatten(3, 4)),
        _float64(weights.flatten(3)),
        _float64(upstream).reshape(*weights.shape[:3], value.shape[-1]),
    )
    return [
        out.reshape(upstream.shape),
        grad_value,
        grad_locations.reshape(locations.shape),
        grad_weights.reshape(weights.shape),
    ]


def attend_fused(
    value: Tensor,
    shapes: Shapes,
    references: Tensor,
    offsets: Tensor,
    logits: Tensor,
    points: Sequence[int] | None,
    box_scale: float,
    upstream: Tensor,
) -> list[Array]:
    """Output and gradients of value, references, offsets and logits."""
    if points is None:
        points = [logits.shape[-1] // len(shapes)] * len(shapes)
    levels = np.repeat(np.arange(len(shapes)), points)
    level_of_reference = levels if references.shape[2] > 1 else np.zeros_like(levels)
    reference = _float64(references)[:, :, None, level_of_reference]
    offset, logit = _float64(offsets), _float64(logits)

    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        if references.shape[-1] == 2:
            scale = 1 / np.array(shapes, np.float64)[levels][:, ::-1]
        else:
            scale = reference[..., 2:] * box_scale / np.repeat(points, points)[:, None]
        locations = reference[..., :2] + offset * scale
        attention = np.exp(logit - logit.max(-1, keepdims=True, initial=-np.inf))
        attention /= attention.sum(-1, keepdims=True)

    out, grad_value, grad_locations, grad_attention = _sample(
        _float64(value),
        shapes,
        levels,
        locations,
        attention,
        _float64(upstream).reshape(*logits.shape[:3], value.shape[-1]),
    )
    grad_logits = attention * (grad_attention - (attention * grad_attention).sum(-1, keepdims=True))
    # A sample without a gradient has none towards offset and box either, were the other infinite.
    live = grad_locations != 0
    with np.errstate(invalid="ignore", over="ignore"):
        grad_offsets = np.where(live, grad_locations * scale, 0)
        grad_reference = [grad_locations]
        if references.shape[-1] == 4:
            by_size = box_scale / np.repeat(points, points)[:, None]
            grad_reference.append(np.where(live, grad_locations * offset * by_size, 0))
    grad_references = np.zeros(references.shape)
    summed = np.concatenate(grad_reference, -1).sum(2)
    np.add.at(grad_references, (slice(None), slice(None), level_of_reference), summed)
    return [
        out.reshape(upstream.shape),
        grad_value,
        grad_references,
        grad_offsets,
        grad_logits,
    ]
