"""What the operator refuses, each time in one sentence: the value, what is expected, the remedy."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

Shapes = Sequence[tuple[int, int]]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_SIDES = (
    "spatial_shapes is {} but a (height, width) of whole numbers is expected for each level; "
    "pass the sizes of the maps you flattened."
)


def level_shapes(spatial_shapes: Shapes | Tensor) -> list[tuple[int, int]]:
    """Pairs of (height, width), read from a tensor if need be, or ValueError."""
    given = spatial_shapes.tolist() if isinstance(spatial_shapes, Tensor) else spatial_shapes
    try:
        shapes = [(height, width) for height, width in given]
    except (TypeError, ValueError) as error:
        raise ValueError(_SIDES.format(given)) from error
    if not all(_is_count(side) for shape in shapes for side in shape):
        raise ValueError(_SIDES.format(given))
    return shapes


def level_points(
    points_per_level: Sequence[int] | None, offsets: Tensor, num_levels: int
) -> list[int]:
    """How many points each level has, by default the same number, or ValueError."""
    if points_per_level is None:
        num_samples = offsets.shape[3] if isinstance(offsets, Tensor) and offsets.ndim > 3 else 0
        if num_samples % max(1, num_levels) or (num_samples and not num_levels):
            raise ValueError(
                f"sampling_offsets has shape {_show(offsets)}, whose K = {num_samples} points are "
                f"not a multiple of {num_levels} levels; say how many belong to each in "
                "points_per_level."
            )
        return [num_samples // max(1, num_levels)] * num_levels
    points: Any = points_per_level
    if isinstance(points, Tensor):
        points = points.tolist()
    countable = hasattr(points, "__iter__") and all(_is_count(each) for each in points)
    if not countable or len(points) != num_levels:
        shown = list(points) if hasattr(points, "__iter__") else points
        raise ValueError(
            f"points_per_level is {shown} but {num_levels} numbers of at least 0 are "
            "expected, one for each of spatial_shapes."
        )
    return list(points)


def check_plain(value: Tensor, shapes: Shapes, locations: Tensor, attention: Tensor) -> None:
    """Raise ValueError unless the arguments of ``ms_deform_attn`` fit together."""
    _check_value(value, shapes)
    num_images, _, num_heads, _ = value.shape
    if locations.ndim != 6 or locations.shape[-1] != 2:
        raise ValueError(
            f"sampling_locations has shape {_show(locations)} but [B, Q, M, L, P, 2] is expected; "
            "the last dimension is (x, y)."
        )
    expected = (num_images, locations.shape[1], num_heads, len(shapes), locations.shape[4], 2)
    if locations.shape != expected:
        raise ValueError(
            f"sampling_locations has shape {_show(locations)} but [B, Q, M, L, P, 2] = "
            f"{list(expected)} is expected; B and M are those of value {_show(value)}, "
            f"L = {len(shapes)} counts spatial_shapes."
        )
    if attention.shape != expected[:-1]:
        raise ValueError(
            f"attention_weights has shape {_show(attention)} but [B, Q, M, L, P] = "
            f"{list(expected[:-1])} is expected, one weight for each sampling location; "
            "unflatten the softmax over L*P into (L, P)."
        )
    _check_company(value, sampling_locations=locations, attention_weights=attention)


def check_gradient(grad_out: Tensor, value: Tensor, locations: Tensor) -> None:
    """Raise ValueError unless this can be the gradient of what ``ms_deform_attn`` returns."""
    num_images, num_queries, num_heads = locations.shape[:3]
    expected = (num_images, num_queries, num_heads * value.shape[3])
    if grad_out.shape != expected:
        raise ValueError(
            f"grad_out has shape {_show(grad_out)} but [B, Q, M*D] = {list(expected)} is expected, "
            "the shape of the output."
        )
    _check_company(value, grad_out=grad_out)


def check_fused(
    value: Tensor,
    shapes: Shapes,
    references: Tensor,
    offsets: Tensor,
    logits: Tensor,
    points: Sequence[int],
    box_scale: float,
) -> None:
    """Raise ValueError unless the arguments of ``ms_deform_attn_fused`` fit together."""
    _check_value(value, shapes)
    num_images, _, num_heads, _ = value.shape
    num_levels = len(shapes)
    if offsets.ndim != 5 or offsets.shape[-1] != 2:
        raise ValueError(
            f"sampling_offsets has shape {_show(offsets)} but [B, Q, M, K, 2] is expected; "
            "flatten levels and points into K, the last dimension is (x, y)."
        )
    expected = (num_images, offsets.shape[1], num_heads, sum(points), 2)
    if offsets.shape != expected:
        terms = " + ".join(map(str, points))
        raise ValueError(
            f"sampling_offsets has shape {_show(offsets)} but [B, Q, M, K, 2] = "
            f"{list(expected)} is expected; B and M are those of value {_show(value)}, "
            f"K = {terms} = {sum(points)} counts points_per_level."
        )
    if logits.shape != expected[:-1]:
        raise ValueError(
            f"attention_logits has shape {_show(logits)} but [B, Q, M, K] = "
            f"{list(expected[:-1])} is expected, one for each of sampling_offsets."
        )
    numbers = (num_images, offsets.shape[1])
    if (
        references.ndim != 4
        or references.shape[:2] != numbers
        or references.shape[2] not in (1, num_levels)
        or references.shape[3] not in (2, 4)
    ):
        raise ValueError(
            f"reference_points has shape {_show(references)} but [B, Q, L, 2 or 4] = "
            f"[{num_images}, {numbers[1]}, {num_levels} or 1, 2 or 4] is expected; "
            "repeat a reference for every level by reference_points[:, :, None]."
        )
    _check_company(
        value, reference_points=references, sampling_offsets=offsets, attention_logits=logits
    )
    if not _is_finite(box_scale):
        raise ValueError(
            f"box_scale is {box_scale!r} but a finite number is expected; 0.5 is the usual one."
        )


def _is_finite(number: Any) -> bool:
    # In this way, since torch.compile cannot trace math.isfinite.
    return isinstance(number, Real) and abs(float(number)) < math.inf


def _is_count(side: Any) -> bool:
    return isinstance(side, Integral | torch.SymInt) and bool(side >= 0)  # type: ignore[operator]


def _check_value(value: Tensor, shapes: Shapes) -> None:
    if value.ndim != 4:
        raise ValueError(
            f"value has shape {_show(value)} but 4 dimensions [B, S, M, D] are expected; "
            "split its channels into heads, value.unflatten(-1, (M, D))."
        )
    expected_tokens = sum(height * width for height, width in shapes)
    if value.shape[1] != expected_tokens:
        # Not before: text would make constants of sizes that a compiled graph keeps open.
        terms = " + ".join(f"{height}x{width}" for height, width in shapes)
        raise ValueError(
            f"value has {value.shape[1]} tokens but spatial_shapes describe {terms} = "
            f"{expected_tokens}; pass (height, width) of the maps you flattened, in that order."
        )


def _check_company(value: Tensor, **others: Tensor) -> None:
    """All on one device, all of numbers that the kernels can calculate with."""
    for name, tensor in others.items():
        if tensor.device != value.device:
            raise ValueError(
                f"{name} is on {tensor.device} but value is on {value.device}; "
                "move them to one device."
            )
    for name, tensor in {"value": value, **others}.items():
        if not tensor.is_floating_point():
            raise ValueError(
                f"{name} is {tensor.dtype} but floating-point numbers are expected; "
                "convert it, for example with .float()."
            )
        if tensor.dtype not in _DTYPES or tensor.layout != torch.strided:
            raise ValueError(
                f"{name} is {tensor.dtype} in the layout {tensor.layout} but float64, float32, "
                "bfloat16 or float16 in a strided one is expected; convert it, for example with "
                ".to_dense() or .float()."
            )


def check_tensors(**given: Tensor) -> None:
    """Raise ValueError unless these are tensors."""
    for name, tensor in given.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"{name} is a {type(tensor).__name__} but a torch.Tensor is expected; convert it, "
                "for example with torch.as_tensor."
            )


def _show(tensor: Tensor) -> str:
    return str(list(tensor.shape))
