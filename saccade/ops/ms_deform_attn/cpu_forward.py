"""The compiled forward of the CPU backend, of both forms of the operator.

Shape legend:
    b image, q query, i query of a block, m head, l level, p point, d channel of a head,
    k sample of a block: the points of its queries, for one head and one level.

The unit of memory is a *row*, the channels of one token and head. Corners outside the map read a
row of zeros kept for them: neither a branch nor a product with zero, which a NaN would survive.
"""

import functools
from typing import Any, no_type_check

import numpy as np

from .cpu_compile import Kernel, compiled, sources
from .cpu_rows import add_rows, add_scaled, load, store, zero_row
from .cpu_samples import (
    ROWS,
    WEIGHTS,
    place,
    prefetch_lines,
    read_attention,
    read_positions,
    softmax,
    take_attention,
)


@functools.cache
def forward_kernel(
    number: type[np.floating[Any]], num_channels: int, reference_size: int, block: int
) -> Kernel:
    """Compiled for this dtype, these many channels, and blocks of so many samples.

    Positions are locations if ``reference_size`` is 0; else they are offsets from references of so
    many numbers, and the attention is given by logits.
    """
    size = np.dtype(number).itemsize
    stamp = sources()

    @no_type_check
    def forward(
        value,
        positions,
        attention,
        references,
        out,
        levels,
        zeros,
        order,
        start,
        stop,
        num_heads,
        num_samples,
        head_bytes,
        box_scale,
    ):
        """Output of some queries of one image, whose arrays are given by their addresses.

        The queries are ``order[start:stop]``. ``levels`` [L, 5] are height, width, offset of the
        first row, first sample and number of points of each level; at ``zeros`` is a row of them.
        """
        _ = stamp
        zero = zero_row(number, num_channels)
        samples = np.empty((ROWS, block), number)
        offsets = np.empty((4, block), np.int64)
        most_points = 0
        for level in range(levels.shape[0]):
            most_points = max(most_points, levels[level, 4])
        queries_per_block = block // most_points
        shares = np.empty((num_samples, queries_per_block), number)
        num_levels = levels.shape[0]
        # Bytes from query to query.
        step = num_heads * head_bytes
        strides = (num_heads * num_samples * size, num_levels * reference_size * size)
        for m in range(num_heads):
            head = m * num_samples * size
            for begin in range(start, stop, queries_per_block):
                end = min(begin + queries_per_block, stop)
                queries = order[begin:end]
                read_attention(shares, attention + head, queries, strides[0])
                if reference_size > 0:
                    softmax(shares, samples[WEIGHTS], samples[WEIGHTS + 1], len(queries))
                for level in range(num_levels):
                    height, width, level_offset, first, num_points = levels[level]
                    level_positions = positions + 2 * (head + first * size)
                    share = box_scale / max(1, num_points)
                    read_positions(
                        samples,
                        level_positions,
                        references + level * reference_size * size,
                        queries,
                        num_points,
                        strides,
                        (number(height), number(width), number(share), reference_size),
                    )
                    take_attention(samples, shares, first, num_points, len(queries))
                    base = value + m * head_bytes + level_offset
                    place(
                        samples,
                        offsets,
                        len(queries) * num_points,
                        height,
                        width,
                        step,
                        zeros - base,
                    )
                    for i in range(len(queries)):
                        ahead = order[min(end + i, stop - 1)] * strides[0]
                        prefetch_lines(level_positions + 2 * ahead, 2 * num_points * size)
                        if level == 0:
                            prefetch_lines(attention + head + ahead, num_samples * size)
                        target = out + m * head_bytes + queries[i] * step
                        # Two sums, since one would wait for each addition before the next.
                        upper = load(zero, target) if level > 0 else zero
                        lower = zero
                        for p in range(num_points):
                            k = i * num_points + p
                            row = load(zero, base + offsets[0, k])
                            upper = add_scaled(upper, samples[WEIGHTS, k], row)
                            row = load(zero, base + offsets[1, k])
                            upper = add_scaled(upper, samples[WEIGHTS + 1, k], row)
                            row = load(zero, base + offsets[2, k])
                            lower = add_scaled(lower, samples[WEIGHTS + 2, k], row)
                            row = load(zero, base + offsets[3, k])
                            lower = add_scaled(lower, samples[WEIGHTS + 3, k], row)
                        store(target, add_rows(upper, lower))

    addresses = 5 * "intp, "
    return compiled(
        forward,
        f"void({addresses}int64[:, ::1], intp, int64[::1], int64, int64, int64, int64, int64, f8)",
    )
