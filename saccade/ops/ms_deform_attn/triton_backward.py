"""Multi-scale deformable attention on GPUs, backward; shape legend in ``triton_sampling``.

Nothing but the inputs is needed: what each sample read is worked out again. The gradient of
value is summed by atomic additions or, where PyTorch is asked for deterministic algorithms, as
``triton_gather`` does.
"""

from collections.abc import Sequence
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from .triton_gather import SampleOrder
from .triton_launch import Problem, ceil_div, fused_problem, plain_problem, run_kernel
from .triton_sampling import (
    BOTTOM_LEFT,
    FIRST_CELL,
    TOP_LEFT,
    TOP_RIGHT,
    channel_corners,
    corner_weights,
    corners,
    level_field,
    level_frame,
    program_place,
    read_level,
    read_samples,
    softmax_terms,
    tile_queries,
)


@triton.jit
@no_type_check
def _row_pair(
    value,
    grad_value,
    rows,
    left_weight,
    right_weight,
    exists,
    grad_row,
    NEXT_TOKEN: tl.constexpr,
    ATOMIC: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Products [q, p] of the rows of two neighbouring corners with ``grad_row``.

    If ``ATOMIC``, adds to their gradients, too.
    """
    has_left = (exists & TOP_LEFT) != 0
    has_right = (exists & TOP_RIGHT) != 0
    left = tl.load(value + rows, has_left, 0).to(COMPUTE)
    right = tl.load(value + rows + NEXT_TOKEN, has_right, 0).to(COMPUTE)
    if ATOMIC:
        left_grad = left_weight[:, :, None] * grad_row
        tl.atomic_add(grad_value + rows, left_grad, has_left, sem="relaxed")
        right_grad = right_weight[:, :, None] * grad_row
        tl.atomic_add(grad_value + rows + NEXT_TOKEN, right_grad, has_right, sem="relaxed")
    return tl.sum(left * grad_row, 2), tl.sum(right * grad_row, 2)


@triton.jit(do_not_specialize=["num_cells", "num_tokens", "num_queries", "num_tiles"])
@no_type_check
def _backward_kernel(
    value,  # [b, s, m, d]
    places,  # [b, q, m, k, 2] locations or offsets
    weights,  # [b, q, m, k] attention or logits
    references,  # [b, q, l, 2 or 4], unused in the plain form
    levels,
    grad_out,  # [b, q, m, d]
    grad_value,  # [b, s, m, d], added to if ATOMIC, else unused
    grad_places,  # [b, q, m, k, 2]
    grad_attention,  # [b, q, m, k]
    grad_references,  # [b, m, q, l, 2 or 4], the part of each head; empty if not wanted
    cells,  # [b, m, q, k] cell of each sample, unused if ATOMIC
    shares,  # [c, b, m, q, k] weight of each corner, unused if ATOMIC
    num_cells,
    num_tokens,
    num_queries,
    num_tiles,
    ATOMIC: tl.constexpr,
    WITH_REFERENCES: tl.constexpr,
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
    plane = image * M + head
    num_planes = tl.num_programs(0) // num_tiles
    value += image * num_tokens * (M * D) + head * D
    grad_value += image * num_tokens * (M * D) + head * D
    places += image * num_queries * (M * K * 2)
    grad_places += image * num_queries * (M * K * 2)
    weights += image * num_queries * (M * K)
    grad_attention += image * num_queries * (M * K)
    references += image * num_queries * (L * REFERENCE)
    grad_references += plane * num_queries * (L * REFERENCE)
    grad_out += image * num_queries * (M * D)
    cells += plane * num_queries * K
    shares += plane * num_queries * K
    peak, scale = exists, exists  # unused in the plain form
    if FUSED:
        peak, scale = softmax_terms(weights, row, exists, K, PADDED_K, COMPUTE)

    for level in range(L):
        height, width, first_token, num_points, first_sample = read_level(levels, level)
        next_row = width.to(INDEX) * (M * D)
        level_start = first_token.to(INDEX) * (M * D)
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
        sum_x = tl.zeros([QUERIES], COMPUTE)
        sum_y = tl.zeros([QUERIES], COMPUTE)
        sum_wide = tl.zeros([QUERIES], COMPUTE)
        sum_high = tl.zeros([QUERIES], COMPUTE)
        for first_point in range(0, num_points, POINTS):
            point = first_point + tl.arange(0, POINTS)
            live = exists[:, None] & (point < num_points)[None, :]
            at = row[:, None] * K + (first_sample + point)[None, :]
            x, y, attention = read_samples(places, weights, at, live, peak, scale, FUSED, COMPUTE)
            left, top, share_x, share_y, inside = corners(
                origin_x + scale_x * x, origin_y + scale_y * y, height, width
            )
            w00, w01, w10, w11 = corner_weights(share_x, share_y, attention)
            offset = level_start + top.to(INDEX) * next_row + left.to(INDEX) * (M * D)
            # Products of the four rows with grad_out.
            dot00 = tl.zeros([QUERIES, POINTS], COMPUTE)
            dot01 = tl.zeros([QUERIES, POINTS], COMPUTE)
            dot10 = tl.zeros([QUERIES, POINTS], COMPUTE)
            dot11 = tl.zeros([QUERIES, POINTS], COMPUTE)
            for first_channel in range(0, D, CHANNELS):
                channel = first_channel + tl.arange(0, CHANNELS)
                grad_row = tl.load(
                    grad_out + row[:, None] * D + channel[None, :],
                    mask=exists[:, None] & (channel < D)[None, :],
                    other=0,
                ).to(COMPUTE)[:, None, :]
                numbers = inside[:, :, None] & channel_corners(channel, D)[None, None, :]
                rows = offset[:, :, None] + channel[None, None, :]
                left_dot, right_dot = _row_pair(
                    value, grad_value, rows, w00, w01, numbers, grad_row, M * D, ATOMIC, COMPUTE
                )
                dot00 += left_dot
                dot01 += right_dot
                rows += next_row
                numbers = numbers // BOTTOM_LEFT
                left_dot, right_dot = _row_pair(
                    value, grad_value, rows, w10, w11, numbers, grad_row, M * D, ATOMIC, COMPUTE
                )
                dot10 += left_dot
                dot11 += right_dot
            if not ATOMIC:
                cell = level_field(levels, level, FIRST_CELL) + (top + 1) * (width + 1) + left + 1
                cell = tl.where(inside != 0, plane * num_cells + cell, num_planes * num_cells)
                local = query[:, None] * K + (first_sample + point)[None, :]
                tl.store(cells + local, cell.to(cells.dtype.element_ty), live)
                corner = num_planes.to(tl.int64) * num_queries * K
                tl.store(shares + local, w00, live)
                tl.store(shares + corner + local, w01, live)
                tl.store(shares + 2 * corner + local, w10, live)
                tl.store(shares + 3 * corner + local, w11, live)

            # Slopes along x at the top and the bottom of the cell, along y at its sides.
            slope_top = dot01 - dot00
            slope_bottom = dot11 - dot10
            slope_left = dot10 - dot00
            slope_right = dot11 - dot01
            slope_x = slope_top + share_y * (slope_bottom - slope_top)
            slope_y = slope_left + share_x * (slope_right - slope_left)
            grad_a = dot00 + share_y * slope_left + share_x * slope_x
            tl.store(grad_attention + at, grad_a.to(grad_attention.dtype.element_ty), live)
            # No gradient, whatever it would be multiplied with, for a sample that reads nothing.
            grad_x = tl.where(inside != 0, attention * slope_x, 0)
            grad_y = tl.where(inside != 0, attention * slope_y, 0)
            # The scale of a sample that reads nothing may be infinite or not a number.
            place_x = tl.where(grad_x == 0, 0, grad_x * scale_x)
            place_y = tl.where(grad_y == 0, 0, grad_y * scale_y)
            tl.store(grad_places + 2 * at, place_x.to(grad_places.dtype.element_ty), live)
            tl.store(grad_places + 2 * at + 1, place_y.to(grad_places.dtype.element_ty), live)
            if WITH_REFERENCES:
                sum_x += tl.sum(grad_x, 1)
                sum_y += tl.sum(grad_y, 1)
            if WITH_REFERENCES and REFERENCE == 4:
                sum_wide += tl.sum(tl.where(grad_x == 0, 0, grad_x * x), 1)
                sum_high += tl.sum(tl.where(grad_y == 0, 0, grad_y * y), 1)
        if WITH_REFERENCES:
            at_reference = grad_references + (query * L + level) * REFERENCE
            wide = width.to(COMPUTE)
            high = height.to(COMPUTE)
            tl.store(at_reference, sum_x * wide, exists)
            tl.store(at_reference + 1, sum_y * high, exists)
            if REFERENCE == 4:
                share = BOX_SCALE / num_points.to(COMPUTE)
                tl.store(at_reference + 2, sum_wide * (wide * share), exists)
                tl.store(at_reference + 3, sum_high * (high * share), exists)


@triton.jit(do_not_specialize=["num_rows"])
@no_type_check
def _softmax_backward_kernel(
    logits,  # [row, k]
    grad_attention,  # [row, k]
    grad_logits,  # [row, k], may be grad_attention itself
    num_rows,
    K: tl.constexpr,
    PADDED_K: tl.constexpr,
    ROWS: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = row < num_rows
    peak, scale = softmax_terms(logits, row, exists, K, PADDED_K, COMPUTE)
    k = tl.arange(0, PADDED_K)[None, :]
    at = row[:, None] * K + k
    mask = exists[:, None] & (k < K)
    logit = tl.load(logits + at, mask, -float("inf")).to(COMPUTE)
    attention = tl.exp(logit - peak[:, None]) * scale[:, None]
    product = attention * tl.load(grad_attention + at, mask, 0)
    grad = product - attention * tl.sum(product, 1)[:, None]
    tl.store(grad_logits + at, grad.to(grad_logits.dtype.element_ty), mask)


def _softmax_backward(logits: Tensor, grad_attention: Tensor, problem: Problem) -> Tensor:
    """The gradient of the logits; takes the memory of ``grad_attention`` if the dtype is right."""
    num_samples = logits.shape[-1]
    num_rows = logits.numel() // num_samples
    fits = grad_attention.dtype == logits.dtype
    grad_logits = grad_attention if fits else torch.empty_like(logits)
    padded = triton.next_power_of_2(num_samples)
    rows = max(1, 1024 // padded)
    run_kernel(
        _softmax_backward_kernel,
        ceil_div(num_rows, rows),
        logits,
        grad_attention,
        grad_logits,
        num_rows,
        K=num_samples,
        PADDED_K=padded,
        ROWS=rows,
        COMPUTE=problem.compute_type,
    )
    return grad_logits


def _run(
    problem: Problem, grad_out: Tensor, with_references: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of value, places, weights and, if wanted, references."""
    value, places, weights, references = problem.tensors
    if problem.empty:
        zeros = (torch.zeros_like(x) for x in problem.tensors)
        return next(zeros), next(zeros), next(zeros), next(zeros)
    atomic = not torch.are_deterministic_algorithms_enabled()
    dtype = problem.compute
    num_images, num_queries, num_heads = weights.shape[:3]
    grad_out = grad_out.detach().contiguous()
    grad_value = value.new_zeros(value.shape, dtype=dtype) if atomic else value
    grad_places = torch.empty_like(places)
    grad_attention = torch.empty_like(weights, dtype=dtype if problem.fused else weights.dtype)
    # Each head's part: summed by PyTorch, in the same order every time.
    num_levels, size = references.shape[2:]
    per_head = (num_images, num_heads, num_queries, num_levels, size)
    grad_references = value.new_empty(per_head if with_references else 0, dtype=dtype)
    order = SampleOrder(problem, atomic)
    problem.launch(
        _backward_kernel,
        grad_out,
        grad_value,
        grad_places,
        grad_attention,
        grad_references,
        order.cells,
        order.shares,
        order.num_cells,
        ATOMIC=atomic,
        WITH_REFERENCES=with_references,
    )
    return (
        grad_value.to(value.dtype) if atomic else order.gather(grad_out),
        grad_places,
        _softmax_backward(weights, grad_attention, problem) if problem.fused else grad_attention,
        grad_references.sum(1).to(references.dtype) if with_references else references,
    )


def backward(
    grad_out: Float[Tensor, "B Q M*D"],
    value: Float[Tensor, "B S M D"],
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Float[Tensor, "B Q M L P 2"],
    attention_weights: Float[Tensor, "B Q M L P"],
    *,
    wide: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights, each in the dtype of what it belongs to.

    Bitwise the same in every run while ``torch.are_deterministic_algorithms_enabled()``; that
    takes some 40 bytes of memory for each sample. ``wide`` as in ``forward``.
    """
    problem = plain_problem(value, spatial_shapes, sampling_locations, attention_weights, wide)
    grad_value, grad_places, grad_weights, _ = _run(problem, grad_out, with_references=False)
    return (
        grad_value,
        grad_places.view(sampling_locations.shape),
        grad_weights.view(attention_weights.shape),
    )


def fused_backward(
    grad_out: Float[Tensor, "B Q M*D"],
    value: Float[Tensor, "B S M D"],
    spatial_shapes: Sequence[tuple[int, int]],
    points_per_level: Sequence[int],
    reference_points: Float[Tensor, "B Q L R"],
    sampling_offsets: Float[Tensor, "B Q M K 2"],
    attention_logits: Float[Tensor, "B Q M K"],
    box_scale: float,
    with_references: bool,
    *,
    wide: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Gradients of value, references, offsets and logits; otherwise as ``backward``.

    That of the references is None unless they are wanted.
    """
    problem = fused_problem(
        value,
        spatial_shapes,
        points_per_level,
        reference_points,
        sampling_offsets,
        attention_logits,
        box_scale,
        wide,
    )
    grad_value, grad_offsets, grad_logits, grad_references = _run(
        problem, grad_out, with_references
    )
    return grad_value, grad_references if with_references else None, grad_offsets, grad_logits
