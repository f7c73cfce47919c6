"""Multi-scale deformable attention in plain indexing: the oracle every backend is held to."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


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
    num_images, num_queries, num_heads = sampling_locations.shape[:3]
    image = torch.arange(num_images, device=value.device).view(-1, 1, 1, 1)
    head = torch.arange(num_heads, device=value.device).view(1, 1, -1, 1)
    tokens = value.to(dtype)
    out = tokens.new_zeros(num_images, num_queries, num_heads, value.shape[3])
    start = 0
    for level, (height, width) in enumerate(spatial_shapes):
        size = torch.tensor([width, height], device=value.device, dtype=dtype)
        pixel = sampling_locations[:, :, :, level].to(dtype) * size - 0.5
        # False for NaN, infinity and all that lies too far out to touch the map, as -2 does.
        reaches = ((pixel >= -1) & (pixel < size)).all(-1, keepdim=True)
        pixel = torch.where(reaches, pixel, -2)
        near = pixel.detach().floor()
        far_share_x, far_share_y = (pixel - near).unbind(-1)
        left, top = near.long().unbind(-1)
        attention = attention_weights[:, :, :, level].to(dtype)
        for row, share_y in ((top, 1 - far_share_y), (top + 1, far_share_y)):
            for column, share_x in ((left, 1 - far_share_x), (left + 1, far_share_x)):
                inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                token = start + torch.where(inside, row * width + column, 0)
                # Selected, not multiplied by zero: an outside corner must not let a NaN through.
                corner = torch.where(inside[..., None], tokens[image, token, head], 0)
                out = out + ((share_x * share_y * attention)[..., None] * corner).sum(3)
        start += height * width
    return out.flatten(2).to(value.dtype)
