"""Multi-scale deformable attention on CPUs: what the kernels are given, and in which threads."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .cpu_kernels import backward_kernel, forward_kernel
from .reference import compute_dtype
from .threads import run_tasks

_NUMBERS: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float64: np.float64}
# Wider heads are worked on in slices, since a row and its sums should fit in the registers.
_WIDEST_ROW = 64
_SAMPLES_PER_BLOCK = 256
_FEWEST_QUERIES_PER_TASK, _MOST_QUERIES_PER_TASK = 32, 256
# Below this many channel products threads cost more than they bring (about 0.2 ms of one core).
_WORTH_THREADS = 2_000_000


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


@functools.lru_cache(maxsize=64)
def _level_table(
    shapes: tuple[tuple[int, int], ...], step: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Height, width and offset of each level, ``step`` bytes a token."""
    starts = itertools.accumulate((h * w for h, w in shapes[:-1]), initial=0)
    return np.array([(h, w, n * step) for (h, w), n in zip(shapes, starts, strict=True)], np.int64)


def forward(
    value: Float[Tensor, "B S M D"],
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Float[Tensor, "B Q M L P 2"],
    attention_weights: Float[Tensor, "B Q M L P"],
) -> Float[Tensor, "B Q M*D"]:
    """As ``ms_deform_attn_reference``; arguments are taken to be consistent."""
    dtype = compute_dtype(value, sampling_locations, attention_weights)
    num_images, num_tokens, num_heads, num_channels = value.shape
    _, num_queries, _, num_levels, num_points = attention_weights.shape
    if attention_weights.numel() == 0:
        return value.new_zeros(num_images, num_queries, num_heads * num_channels)
    inputs = [
        x.detach().to(dtype).contiguous() for x in (value, sampling_locations, attention_weights)
    ]
    out = torch.empty(num_images, num_queries, num_heads * num_channels, dtype=dtype)
    size = dtype.itemsize
    head_bytes = num_channels * size
    levels = _level_table(tuple(spatial_shapes), num_heads * head_bytes)
    value_at, locations_at, attention_at = (x.data_ptr() for x in inputs)
    number = _NUMBERS[dtype]
    num_threads = _useful_threads(attention_weights, num_channels)
    # Some tasks for every thread, so that none ends much later than the others.
    share = -(-num_images * num_queries // (4 * num_threads))
    queries_per_task = min(_MOST_QUERIES_PER_TASK, max(_FEWEST_QUERIES_PER_TASK, share))

    def work(b: int, start: int, d: int, slice_channels: int) -> None:
        query = b * num_queries + start
        sample = query * num_heads * num_levels * num_points
        forward_kernel(number, slice_channels, _block(num_points))(
            value_at + b * num_tokens * num_heads * head_bytes + d * size,
            locations_at + 2 * sample * size,
            attention_at + sample * size,
            out.data_ptr() + query * num_heads * head_bytes + d * size,
            levels,
            min(queries_per_task, num_queries - start),
            num_heads,
            num_points,
            head_bytes,
        )

    tasks = (
        functools.partial(work, b, start, *channels)
        for b in range(num_images)
        for start in range(0, num_queries, queries_per_task)
        for channels in _channel_slices(num_channels)
    )
    run_tasks(tasks, num_threads)
    return out.to(value.dtype)


def backward(
    grad_out: Float[Tensor, "B Q M*D"],
    value: Float[Tensor, "B S M D"],
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Float[Tensor, "B Q M L P 2"],
    attention_weights: Float[Tensor, "B Q M L P"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights, each in the dtype of what it belongs to.

    Whoever works on (image, head, level) owns that part of all three: nothing is shared, and the
    result is bitwise the same for every number of threads.
    """
    dtype = compute_dtype(value, sampling_locations, attention_weights)
    num_images, num_tokens, num_heads, num_channels = value.shape
    _, num_queries, _, num_levels, num_points = attention_weights.shape
    if attention_weights.numel() == 0 or value.numel() == 0:
        return (
            value.new_zeros(value.shape),
            sampling_locations.new_zeros(sampling_locations.shape),
            attention_weights.new_zeros(attention_weights.shape),
        )
    tensors = (grad_out, value, sampling_locations, attention_weights)
    inputs = [x.detach().to(dtype).contiguous() for x in tensors]
    grad_value = torch.empty(value.shape, dtype=dtype)
    grad_locations = torch.empty(sampling_locations.shape, dtype=dtype)
    grad_attention = torch.empty(attention_weights.shape, dtype=dtype)
    size = dtype.itemsize
    head_bytes = num_channels * size
    levels = _level_table(tuple(spatial_shapes), num_heads * head_bytes).tolist()
    grad_out_at, value_at, locations_at, attention_at = (x.data_ptr() for x in inputs)
    grad_value_at, grad_locations_at = grad_value.data_ptr(), grad_locations.data_ptr()
    grad_attention_at = grad_attention.data_ptr()
    number = _NUMBERS[dtype]

    def work(level: int, b: int, m: int) -> None:
        height, width, level_offset = levels[level]
        rows = b * num_tokens * num_heads * head_bytes + level_offset + m * head_bytes
        out_rows = (b * num_queries * num_heads + m) * head_bytes
        sample = ((b * num_queries * num_heads + m) * num_levels + level) * num_points * size
        for d, slice_channels in _channel_slices(num_channels):
            backward_kernel(number, slice_channels, _block(num_points))(
                grad_out_at + out_rows + d * size,
                value_at + rows + d * size,
                locations_at + 2 * sample,
                attention_at + sample,
                grad_value_at + rows + d * size,
                grad_locations_at + 2 * sample,
                grad_attention_at + sample,
                num_queries,
                num_heads,
                num_levels,
                num_points,
                head_bytes,
                height,
                width,
                d > 0,
            )

    places = itertools.product(range(num_levels), range(num_images), range(num_heads))
    tasks = (functools.partial(work, *place) for place in places)
    run_tasks(tasks, _useful_threads(attention_weights, num_channels))
    return (
        grad_value.to(value.dtype),
        grad_locations.to(sampling_locations.dtype),
        grad_attention.to(attention_weights.dtype),
    )
