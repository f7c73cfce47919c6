"""The operator out of PyTorch's own parts: what everything else is compared with."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def grid_sample_attention(
    value: Float[Tensor, "B S M D"],
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Float[Tensor, "B Q M L P 2"],
    attention_weights: Float[Tensor, "B Q M L P"],
) -> Float[Tensor, "B Q M*D"]:
    """One ``grid_sample`` per level, stacked, weighted and summed.

    The formulation of transformers (`MultiScaleDeformableAttention` of its Deformable DETR) and of
    every repository's fallback, with the same copies in the same order. Half precision is
    calculated as there under autocast: ``grid_sample`` in float32.
    """
    num_images, _, num_heads, num_channels = value.shape
    num_queries = sampling_locations.shape[1]
    tokens_of_levels = [height * width for height, width in spatial_shapes]
    maps = torch.split(value.to(sampling_locations.dtype), tokens_of_levels, dim=1)
    grid = 2 * sampling_locations - 1
    sampled = [
        functional.grid_sample(
            tokens.flatten(2).transpose(1, 2).reshape(-1, num_channels, height, width),
            grid[:, :, :, level].transpose(1, 2).flatten(0, 1),
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )
        for level, (tokens, (height, width)) in enumerate(zip(maps, spatial_shapes, strict=True))
    ]
    weights = attention_weights.transpose(1, 2).reshape(num_images * num_heads, 1, num_queries, -1)
    # [B*M, D, Q, L*P], the product and its sum: the large arrays of this formulation.
    summed = (torch.stack(sampled, dim=-2).flatten(-2) * weights).sum(-1)
    out = summed.view(num_images, num_heads * num_channels, num_queries).transpose(1, 2)
    return out.contiguous().to(value.dtype)
