"""Multi-scale deformable attention in plain indexing: the oracle every backend is held to."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """The widest of the tensors' dtypes and float32: what every backend calculates in.

    A half-precision coordinate is off by up to a third of a pixel on a map 167 wide, so nothing
    is ever calculated in half precision.
    """
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def ms_deform_attn_reference(
    value: Float[Tensor, "B S M D"],
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Float[Tensor, "B Q M L P 2"],
    attention_weights: Float[Tensor, "B Q M L P"],
) -> Float[Tensor, "B Q M*D"]:
    """Equation 3 of Deformable DETR without its linear maps, one level and one corner at a time.

    ``out[q, m] = sum over l, p of A[m, l, q, p] * value_l[m](phi_l(location[q, m, l, p]))``

    ``value_l(.)`` is bilinear between pixel centres (a centre lies at ``(i + 0.5) / size``) and
    zero outside the map. Differentiable twice, on every device, in every float dtype.

    Args:
        value: Projected features, levels one after another, rows one after another.
        spatial_shapes: (height, width) of each level in tokens.
        sampling_locations: (x, y) as a fraction of the padded map. A location that is not finite
            contributes nothing and receives no gradient.
        attention_weights: ``A``, one per sample.

    Returns:
        The weighted sums, heads one after another, in the dtype of ``value``.
    """
    dtype = compute_dtype(value, sampling_locations, attention_weights)
    locations = sampling_locations.to(dtype).unbind(3)
    attention = attention_weights.to(dtype).unbind(3)
    levels = zip(spatial_shapes, locations, attention, strict=True)
    total = _sum_of_levels(value.to(dtype), levels, sampling_locations.shape[1])
    return (total + _nothing(sampling_locations, attention_weights)).to(value.dtype)


def ms_deform_attn_fused_reference(
    value: Float[Tensor, "B S M D"],
    spatial_shapes: Sequence[tuple[int, int]],
    reference_points: Float[Tensor, "B Q L R"],
    sampling_offsets: Float[Tensor, "B Q M K 2"],
    attention_logits: Float[Tensor, "B Q M K"],
    points_per_level: Sequence[int],
    box_scale: float = 0.5,
) -> Float[Tensor, "B Q M*D"]:
    """Equation 3 from what the linear maps give: see ``ms_deform_attn_fused``."""
    tensors = (value, reference_points, sampling_offsets, attention_logits)
    dtype = compute_dtype(*tensors)
    tokens, references, offsets, logits = (tensor.to(dtype) for tensor in tensors)
    points = list(points_per_level)
    locations = (
        level_locations(shape, reference, level_offsets, box_scale)
        for shape, reference, level_offsets in zip(
            spatial_shapes,
            references.expand(-1, -1, len(points), -1).unbind(2),
            torch.split(offsets, points, 3),
            strict=True,
        )
    )
    levels = zip(spatial_shapes, locations, torch.split(logits.softmax(-1), points, 3), strict=True)
    total = _sum_of_levels(tokens, levels, sampling_offsets.shape[1])
    return (total + _nothing(*tensors)).to(value.dtype)


def level_locations(
    shape: tuple[int, int],
    references: Float[Tensor, "B Q R"],
    offsets: Float[Tensor, "B Q M P 2"],
    box_scale: float,
) -> Float[Tensor, "B Q M P 2"]:
    """Where one level is sampled: ``p_q + Δp`` as (x, y), fraction of the padded map.

    An offset counts tokens of the level, ``shape`` of them (height, width), around a reference of
    two numbers (x, y). Around a box (cx, cy, w, h) it counts ``box_scale / P`` of its sides.
    Where the sum is not finite, neither term receives a gradient.
    """
    per_sample = references[:, :, None, None].expand(*offsets.shape[:-1], -1)
    locations = _add_offsets(shape, per_sample.detach(), offsets.detach(), box_scale)
    finite = locations.isfinite().all(-1, keepdim=True)
    # Zeros in place of what is not finite: a NaN times a gradient of zero would still be NaN.
    per_sample = torch.where(finite, per_sample, 0)
    locations = _add_offsets(shape, per_sample, torch.where(finite, offsets, 0), box_scale)
    return torch.where(finite, locations, torch.nan)


def _add_offsets(
    shape: tuple[int, int], references: Tensor, offsets: Tensor, box_scale: float
) -> Tensor:
    if references.shape[-1] == 2:
        height, width = shape
        x, y = offsets.unbind(-1)
        return references + torch.stack([x / width, y / height], -1)
    share = box_scale / max(1, offsets.shape[-2])
    return references[..., :2] + offsets * (references[..., 2:] * share)


def _sum_of_levels(
    tokens: Float[Tensor, "B S M D"],
    levels: Iterable[tuple[tuple[int, int], Tensor, Tensor]],
    num_queries: int,
) -> Float[Tensor, "B Q M*D"]:
    """Sum over the levels, each of them (shape, locations [B Q M P 2], attention [B Q M P])."""
    num_images, _, num_heads, num_channels = tokens.shape
    image = torch.arange(num_images, device=tokens.device).view(-1, 1, 1, 1)
    head = torch.arange(num_heads, device=tokens.device).view(1, 1, -1, 1)
    # Corners outside the map read a token of zeros: an outside value, even a NaN, changes nothing.
    tokens = F.pad(tokens, (0, 0, 0, 0, 0, 1))
    nowhere = tokens.shape[1] - 1
    out = tokens[:, -1:].expand(num_images, num_queries, num_heads, num_channels)
    start = 0
    for (height, width), locations, attention in levels:
        x, y = locations[..., 0] * width - 0.5, locations[..., 1] * height - 0.5
        # False for NaN, infinity and all that lies too far out to touch the map, as -2 does.
        reaches = (x >= -1) & (x < width) & (y >= -1) & (y < height)
        x, y = torch.where(reaches, x, -2), torch.where(reaches, y, -2)
        left, top = x.detach().floor(), y.detach().floor()
        right_share, lower_share = x - left, y - top
        left, top = left.long(), top.long()
        for row, share_y in ((top, 1 - lower_share), (top + 1, lower_share)):
            for column, share_x in ((left, 1 - right_share), (left + 1, right_share)):
                inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                token = torch.where(inside, start + row * width + column, nowhere)
                weight = (share_x * share_y * attention)[..., None]
                out = out + (weight * tokens[image, token, head]).sum(3)
        start += height * width
    return out.flatten(2)


def _nothing(*tensors: Tensor) -> Tensor:
    """Zero, of which all of them are part: they have gradients even where there is no level."""
    return torch.stack([tensor.flatten()[:0].sum() for tensor in tensors]).sum()
