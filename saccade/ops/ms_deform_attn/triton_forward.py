"""Multi-scale deformable attention on GPUs, forward; shape legend in ``triton_sampling``."""

from collections.abc import Sequence
from typing import no_type_check

import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from .triton_launch import Problem, fused_problem, plain_problem
from .triton_sampling import (
    BOTTOM_LEFT,
    BOTTOM_RIGHT,
    TOP_LEFT,
    TOP_RIGHT,
    channel_corners,
    corner_weights,
    corners,
    level_frame,
    program_place,
    read_level,
    read_samples,
    softmax_terms,
    tile_queries,
)


@triton.jit(do_not_specialize=["num_tokens", "num_queries", "num_tiles"])
@no_type_check
def _forward_kernel(
    value,  # [b, s, m, d]
    places,  # [b, q, m, k, 2] locations or offsets
    weights,  # [b, q, m, k] attention or logits
    references,  # [b, q, l, 2 or 4], unused in the plain form
    levels,
    out,  # [b, q, m, d]
    num_tokens,
    num_queries,
    num_tiles,
    REFERENCE: tl.constexpr,
    BOX_SCALE: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    L: tl.constexpr,
    K: tl.constexpr,
    PADDED_K: tl.constexpr,
    QUERIES: tl.constexpr,
    POINTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PATCH_WIDTH: tl.constexpr,
    INDEX: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    FUSED: tl.constexpr = REFERENCE > 0
    tile, head, image = program_place(num_tiles, M)
    query, exists = tile_queries(levels, tile, num_queries, L, QUERIES, PATCH_WIDTH)
    query = query.to(INDEX)
    row = query * M + head
    value += image * num_tokens * (M * D) + head * D
    places += image * num_queries * (M * K * 2)
    weights += image * num_queries * (M * K)
    references += image * num_queries * (L * REFERENCE)
    out += image * num_queries * (M * D)
    peak, scale = exists, exists  # unused in the plain form
    if FUSED:
        peak, scale = softmax_terms(weights, row, exists, K, PADDED_K, COMPUTE)

    for first_channel in range(0, D, CHANNELS):
        channel = first_channel + tl.arange(0, CHANNELS)
        total = tl.zeros([QUERIES, POINTS, CHANNELS], COMPUTE)
        for level in range(L):
            height, width, first_token, num_points, first_sample = read_level(levels, level)
            level_rows = value + channel[None, None, :] + first_token.to(INDEX) * (M * D)
            next_row = width.to(INDEX) * (M * D)
            origin_x, origin_y, scale_x, scale_y = level_frame(
                references,
                query * L + level,
                exists,
                height,
                width,
                num_points,
                REFERENCE,
                BOX_SCALE,
                COMPUTE,
            )
            for first_point in range(0, num_points, POINTS):
                point = first_point + tl.arange(0, POINTS)
                live = exists[:, None] & (point < num_points)[None, :]
                at = row[:, None] * K + (first_sample + point)[None, :]
                x, y, attention = read_samples(
                    places, weights, at, live, peak, scale, FUSED, COMPUTE
                )
                left, top, share_x, share_y, inside = corners(
                    origin_x + scale_x * x, origin_y + scale_y * y, height, width
                )
                w00, w01, w10, w11 = corner_weights(share_x, share_y, attention)
                offset = top.to(INDEX) * next_row + left.to(INDEX) * (M * D)
                top_rows = level_rows + offset[:, :, None]
                bottom_rows = top_rows + next_row
                inside = inside[:, :, None] & channel_corners(channel, D)[None, None, :]
                # Two rows at a time: registers for four would halve the number of warps.
                row0 = tl.load(top_rows, (inside & TOP_LEFT) != 0, 0)
                row1 = tl.load(top_rows + M * D, (inside & TOP_RIGHT) != 0, 0)
                total += w00[:, :, None] * row0.to(COMPUTE)
                total += w01[:, :, None] * row1.to(COMPUTE)
                row0 = tl.load(bottom_rows, (inside & BOTTOM_LEFT) != 0, 0)
                row1 = tl.load(bottom_rows + M * D, (inside & BOTTOM_RIGHT) != 0, 0)
                total += w10[:, :, None] * row0.to(COMPUTE)
                total += w11[:, :, None] * row1.to(COMPUTE)

        mask = exists[:, None] & (channel < D)[None, :]
        result = tl.sum(total, 1).to(out.dtype.element_ty)
        tl.store(out + row[:, None] * D + channel[None, :], result, mask)


def _run(problem: Problem) -> Tensor:
    num_images, _, num_heads, num_channels = problem.value.shape
    size = (num_images, problem.num_queries, num_heads * num_channels)
    if problem.empty:
        return problem.value.new_zeros(size)
    out = problem.value.new_empty(size)
    problem.launch(_forward_kernel, out)
    return out


def forward(
    value: Float[Tensor, "B S M D"],
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Float[Tensor, "B Q M L P 2"],
    attention_weights: Float[Tensor, "B Q M L P"],
    *,
    wide: bool = False,
) -> Float[Tensor, "B Q M*D"]:
    """As ``ms_deform_attn_reference``; arguments are taken to be consistent.

    ``wide`` calculates addresses in 64 bits even where 32 are enough.
    """
    return _run(plain_problem(value, spatial_shapes, sampling_locations, attention_weights, wide))


def fused_forward(
    value: Float[Tensor, "B S M D"],
    spatial_shapes: Sequence[tuple[int, int]],
    points_per_level: Sequence[int],
    reference_points: Float[Tensor, "B Q L R"],
    sampling_offsets: Float[Tensor, "B Q M K 2"],
    attention_logits: Float[Tensor, "B Q M K"],
    box_scale: float,
    *,
    wide: bool = False,
) -> Float[Tensor, "B Q M*D"]:
    """As ``ms_deform_attn_fused_reference``; arguments are taken to be consistent.

    Locations and attention weights exist in registers only. ``wide`` as in ``forward``.
    """
    return _run(
        fused_problem(
            value,
            spatial_shapes,
            points_per_level,
            reference_points,
            sampling_offsets,
            attention_logits,
            box_scale,
            wide,
        )
    )
