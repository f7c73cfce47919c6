"""Deformable attention out of what every runtime knows: one GridSample for each sampling point.

Letters: B images, Q queries, M heads, D channels a head, K samples a head, P points of one level.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def attention_by_grid_sample(
    value: Float[Tensor, "B S M D"],
    sides: Sequence[int],
    points: Sequence[int],
    references: Float[Tensor, "B Q L R"],
    offsets: Float[Tensor, "B Q M K 2"],
    logits: Float[Tensor, "B Q M K"],
    box_scale: float,
    backend: str,  # noqa: ARG001 - the operator's
) -> Float[Tensor, "B Q M*D"]:
    """What ``torch.ops.saccade.ms_deform_attn_fused`` calculates.

    A sample of all queries at a time is as large as the value itself and stays in a cache, where
    all samples of a level together (as in `saccade.bench.grid_sample`) pass through memory: on a
    CPU, onnxruntime and OpenVINO take two thirds of the time.
    """
    num_images, _, num_heads, num_channels = value.shape
    num_queries = offsets.shape[1]
    maps = value.permute(0, 2, 3, 1).flatten(0, 1)
    attention = logits.softmax(-1).permute(0, 2, 3, 1).flatten(0, 1)
    total = None
    first_token = first_sample = 0
    for level, count in enumerate(points):
        height, width = sides[2 * level], sides[2 * level + 1]
        tokens = maps[:, :, first_token : first_token + height * width]
        map_ = tokens.unflatten(2, (height, width))  # type: ignore[no-untyped-call]
        of_level = offsets[:, :, :, first_sample : first_sample + count]
        grids = _grids(references[:, :, level], of_level, height, width, box_scale)
        for number in range(count):
            sampled = F.grid_sample(
                map_, grids[:, number : number + 1], "bilinear", "zeros", align_corners=False
            )
            weight = attention[:, first_sample + number, None, None]
            total = sampled * weight if total is None else total + sampled * weight
        first_token += height * width
        first_sample += count
    if total is None:
        return value.new_zeros(num_images, num_queries, num_heads * num_channels)
    # [B*M, D, 1, Q]
    return total.view(num_images, num_heads * num_channels, num_queries).transpose(1, 2)


def _grids(
    references: Float[Tensor, "B Q R"],
    offsets: Float[Tensor, "B Q M P 2"],
    height: int,
    width: int,
    box_scale: float,
) -> Float[Tensor, "B*M P Q 2"]:
    """Where the samples of a level are, from -1 to 1 between the corners of its map."""
    centres = references[:, :, None, None, :2]
    if references.shape[-1] == 2:
        x, y = offsets.unbind(-1)
        moves = torch.stack([x / width, y / height], -1)
    else:
        share = box_scale / max(1, offsets.shape[3])
        moves = offsets * (references[:, :, None, None, 2:] * share)
    return (2 * (centres + moves) - 1).permute(0, 2, 3, 1, 4).flatten(0, 1)
