"""Multi-scale deformable attention on CPUs: what the kernels are given, and in which threads."""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .cpu_backward import backward_kernel
from .cpu_forward import forward_kernel
from .cpu_memory import NUMBERS, Scratch, allocate, borrow, level_table, query_order
from .cpu_softmax import softmax_kernel
from .reference import compute_dtype
from .threads import run_tasks

# Wider heads are worked on in slices, since a row and its sums should fit in the registers.
_WIDEST_ROW = 64
# Samples of a level worked on together: their places and weights stay in the cache.
_SAMPLES_PER_BLOCK = 256
_FEWEST_QUERIES_PER_TASK, _MOST_QUERIES_PER_TASK = 32, 256
# Queries and heads whose softmax is calculated in one task.
_ROWS_PER_TASK = 8192
# Below this many channel products threads cost more than they bring (about 0.2 ms of one core).
_WORTH_THREADS = 2_000_000


class _Samples(NamedTuple):
    """Where and how much to sample, in either form of the operator."""

    shapes: tuple[tuple[int, int], ...]
    points: tuple[int, ...]
    positions: Tensor
    """[B Q M K 2]: locations, or offsets from the references."""
    attention: Tensor
    """[B Q M K]: weights; in the forward of the fused form logits."""
    references: Tensor | None
    """[B Q L 2 or 4], or None if positions are locations."""
    box_scale: float

    @property
    def reference_size(self) -> int:
        return 0 if self.references is None else self.references.shape[-1]


def forward(
    value: Float[Tensor, "B S M D"],
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Float[Tensor, "B Q M L P 2"],
    attention_weights: Float[Tensor, "B Q M L P"],
) -> Float[Tensor, "B Q M*D"]:
    """As ``ms_deform_attn_reference``; arguments are taken to be consistent."""
    return _forward(value, _plain(spatial_shapes, sampling_locations, attention_weights))


def fused_forward(
    value: Float[Tensor, "B S M D"],
    spatial_shapes: Sequence[tuple[int, int]],
    points_per_level: Sequence[int],
    reference_points: Float[Tensor, "B Q L R"],
    sampling_offsets: Float[Tensor, "B Q M K 2"],
    attention_logits: Float[Tensor, "B Q M K"],
    box_scale: float,
) -> Float[Tensor, "B Q M*D"]:
    """As ``ms_deform_attn_fused_reference``; arguments are taken to be consistent."""
    samples = _Samples(
        tuple(spatial_shapes),
        tuple(points_per_level),
        sampling_offsets,
        attention_logits,
        reference_points,
        box_scale,
    )
    return _forward(value, samples)


def backward(
    grad_out: Float[Tensor, "B Q M*D"],
    value: Float[Tensor, "B S M D"],
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Float[Tensor, "B Q M L P 2"],
    attention_weights: Float[Tensor, "B Q M L P"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights, each in the dtype of what it belongs to."""
    samples = _plain(spatial_shapes, sampling_locations, attention_weights)
    grad_value, grad_locations, grad_attention, _ = _backward(
        grad_out, value, samples, with_references=False
    )
    return (
        grad_value.to(value.dtype),
        grad_locations.view(sampling_locations.shape).to(sampling_locations.dtype),
        grad_attention.view(attention_weights.shape).to(attention_weights.dtype),
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
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Gradients of value, references, offsets and logits, in the dtypes of what they belong to.

    That of the references is None unless they are wanted.
    """
    dtype = compute_dtype(value, reference_points, sampling_offsets, attention_logits)
    logits = attention_logits.detach().to(dtype).contiguous()
    attention = allocate(logits.shape, dtype)
    _run_softmax(logits, attention, backward=False)
    samples = _Samples(
        tuple(spatial_shapes),
        tuple(points_per_level),
        sampling_offsets,
        attention,
        reference_points,
        box_scale,
    )
    grad_value, grad_offsets, grad_attention, grad_references = _backward(
        grad_out, value, samples, with_references
    )
    _run_softmax(logits, grad_attention, backward=True)
    if grad_references is not None:
        grad_references = grad_references.sum(2).to(reference_points.dtype)
    return (
        grad_value.to(value.dtype),
        grad_references,
        grad_offsets.to(sampling_offsets.dtype),
        grad_attention.to(attention_logits.dtype),
    )


def _run_softmax(logits: Tensor, result: Tensor, backward: bool) -> None:
    """Write the softmax of the logits to ``result``, or from its gradient there make theirs."""
    num_samples = logits.shape[-1]
    if logits.numel() == 0:
        return
    num_rows = logits.numel() // num_samples
    kernel = softmax_kernel(NUMBERS[logits.dtype], backward)
    addresses = logits.data_ptr(), result.data_ptr()
    tasks = (
        functools.partial(
            kernel, *addresses, start, min(start + _ROWS_PER_TASK, num_rows), num_samples
        )
        for start in range(0, num_rows, _ROWS_PER_TASK)
    )
    run_tasks(tasks, torch.get_num_threads() if num_rows > _ROWS_PER_TASK else 1)


def _plain(
    spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, attention: Tensor
) -> _Samples:
    num_levels, num_points = attention.shape[3:]
    return _Samples(
        tuple(spatial_shapes),
        (num_points,) * num_levels,
        locations.flatten(3, 4),
        attention.flatten(3),
        references=None,
        box_scale=0.0,
    )


def _forward(value: Tensor, samples: _Samples) -> Tensor:
    num_images, num_tokens, num_heads, num_channels = value.shape
    _, num_queries, _, num_samples = samples.attention.shape
    if samples.attention.numel() == 0:
        return value.new_zeros(num_images, num_queries, num_heads * num_channels)
    dtype = _compute_dtype(value, samples)
    inputs = _prepared(dtype, value, samples.positions, samples.attention, samples.references)
    value_at, positions_at, attention_at, references_at = map(_address, inputs)
    out = allocate((num_images, num_queries, num_heads * num_channels), dtype)
    out_at = out.data_ptr()
    size = dtype.itemsize
    head_bytes = num_channels * size
    levels = level_table(samples.shapes, samples.points, num_heads * head_bytes)
    order = query_order(samples.shapes, num_queries)
    references_per_image = num_queries * len(samples.points) * samples.reference_size
    block = _block(max(samples.points))
    num_threads = _useful_threads(samples.attention, num_channels)
    # Some tasks for every thread, so that none ends much later than the others.
    share = -(-num_images * num_queries // (4 * num_threads))
    queries_per_task = min(_MOST_QUERIES_PER_TASK, max(_FEWEST_QUERIES_PER_TASK, share))

    zeros = np.zeros(head_bytes, np.uint8)
    kernels = {
        d: forward_kernel(NUMBERS[dtype], slice_channels, samples.reference_size, block)
        for d, slice_channels in _channel_slices(num_channels)
    }

    def work(b: int, start: int) -> None:
        query = b * num_queries
        sample = query * num_heads * num_samples
        for d, kernel in kernels.items():
            kernel(
                value_at + b * num_tokens * num_heads * head_bytes + d * size,
                positions_at + 2 * sample * size,
                attention_at + sample * size,
                references_at + b * references_per_image * size,
                out_at + query * num_heads * head_bytes + d * size,
                levels,
                zeros.ctypes.data,
                order,
                start,
                min(start + queries_per_task, num_queries),
                num_heads,
                num_samples,
                head_bytes,
                samples.box_scale,
            )

    tasks = (
        functools.partial(work, b, start)
        for b in range(num_images)
        for start in range(0, num_queries, queries_per_task)
    )
    run_tasks(tasks, num_threads)
    return out.to(value.dtype)


def _backward(
    grad_out: Tensor, value: Tensor, samples: _Samples, with_references: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of value, positions, attention and, head by head and if wanted, references.

    Whoever works on (image, head, level) owns that part of all of them: nothing is shared, and the
    result is bitwise the same for every number of threads. The attention of the fused form, which
    nobody else has, is overwritten by its gradient where one pass over the channels suffices.
    """
    dtype = _compute_dtype(value, samples)
    num_images, num_tokens, num_heads, num_channels = value.shape
    _, num_queries, _, num_samples = samples.attention.shape
    num_levels = len(samples.points)
    of_heads = (num_images, num_queries, num_heads, num_levels, samples.reference_size)
    empty = value.numel() * samples.attention.numel() == 0
    make = functools.partial(torch.zeros, dtype=dtype) if empty else allocate
    grad_value = make(value.shape, dtype=dtype)
    grad_positions = make(samples.positions.shape, dtype=dtype)
    overwrite = samples.references is not None and num_channels <= _WIDEST_ROW and not empty
    grad_attention = samples.attention if overwrite else make(samples.attention.shape, dtype=dtype)
    grad_references = make(of_heads, dtype=dtype) if with_references else None
    grads = (grad_value, grad_positions, grad_attention, grad_references)
    if empty:
        return grads
    inputs = _prepared(
        dtype, grad_out, value, samples.positions, samples.attention, samples.references
    )
    grad_out_at, value_at, positions_at, attention_at, references_at = map(_address, inputs)
    grad_value_at, grad_positions_at, grad_attention_at, grad_references_at = map(_address, grads)
    size = dtype.itemsize
    head_bytes = num_channels * size
    levels = level_table(samples.shapes, samples.points, num_heads * head_bytes).tolist()
    order = query_order(samples.shapes, num_queries)
    block = _block(max(samples.points))
    most_tokens = max(height * width for height, width in samples.shapes)
    scratch_bytes = 2 * (most_tokens + 1) * min(num_channels, _WIDEST_ROW) * size
    unused_scratch: list[Scratch] = []
    kernels = {
        d: backward_kernel(NUMBERS[dtype], slice_channels, samples.reference_size, block)
        for d, slice_channels in _channel_slices(num_channels)
    }

    def work(level: int, b: int, m: int) -> None:
        height, width, level_offset, first, num_points = levels[level]
        query_and_head = b * num_queries * num_heads + m
        rows = b * num_tokens * num_heads * head_bytes + level_offset + m * head_bytes
        sample = (query_and_head * num_samples + first) * size
        reference = (b * num_queries * num_levels + level) * samples.reference_size * size
        head_reference = (query_and_head * num_levels + level) * samples.reference_size * size
        scratch = borrow(unused_scratch, scratch_bytes)
        for d, kernel in kernels.items():
            kernel(
                grad_out_at + query_and_head * head_bytes + d * size,
                value_at + rows + d * size,
                positions_at + 2 * sample,
                attention_at + sample,
                references_at + reference,
                grad_value_at + rows + d * size,
                grad_positions_at + 2 * sample,
                grad_attention_at + sample,
                grad_references_at and grad_references_at + head_reference,
                order,
                num_heads,
                num_levels,
                num_samples,
                num_points,
                head_bytes,
                height,
                width,
                samples.box_scale,
                scratch.address,
                num_queries * num_points > height * width,
                d > 0,
            )
        unused_scratch.append(scratch)

    places = itertools.product(range(num_levels), range(num_images), range(num_heads))
    tasks = (functools.partial(work, *place) for place in places)
    run_tasks(tasks, _useful_threads(samples.attention, num_channels))
    return grads


def _compute_dtype(value: Tensor, samples: _Samples) -> torch.dtype:
    tensors = (value, samples.positions, samples.attention, samples.references)
    return compute_dtype(*(x for x in tensors if x is not None))


def _prepared(dtype: torch.dtype, *tensors: Tensor | None) -> list[Tensor | None]:
    return [x if x is None else x.detach().to(dtype).contiguous() for x in tensors]


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _channel_slices(num_channels: int) -> list[tuple[int, int]]:
    """(first channel, number of channels) of each pass over the samples."""
    starts = range(0, num_channels, _WIDEST_ROW)
    return [(start, min(_WIDEST_ROW, num_channels - start)) for start in starts]


def _useful_threads(attention: Tensor, num_channels: int) -> int:
    products = 4 * attention.numel() * num_channels
    return torch.get_num_threads() if products >= _WORTH_THREADS else 1


def _block(num_points: int) -> int:
    """How many samples to work on together; a constant, unless a query has more of them."""
    return max(_SAMPLES_PER_BLOCK, 1 << (num_points - 1).bit_length())
