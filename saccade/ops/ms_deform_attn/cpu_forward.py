"""The compiled forward of the CPU backend, of both forms of the operator.

Shape legend:
    b image, q query, i query of a block, m head, l level, p point, k sample (all levels),
    n number of queries of a block, d channel of a head.

The unit of memory is a *row*, the channels of one token and head. Corners outside the map read a
row of zeros kept for them: neither a branch nor a product with zero, which a NaN would survive.
"""

import functools
from typing import Any, no_type_check

import numpy as np

from .cpu_compile import Kernel, compiled, sources
from .cpu_rows import add_rows, add_scaled, load, store, zero_row
from .cpu_samples import place, read_frame, read_samples, softmax


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
        first row, first sample and number of points of each level.
        """
        _ = stamp
        zero = zero_row(number, num_channels)
        outside = np.zeros(num_channels, number)
        xs = np.empty(block, number)
        ys = np.empty(block, number)
        shares = np.empty(block, number)
        offsets = np.empty(4 * block, np.int64)
        weights = np.empty(4 * block, number)
        most = block // num_samples
        origin = np.empty((2, most), number)
        scale = np.empty((2, most), number)
        num_levels = levels.shape[0]
        step = num_heads * head_bytes
        for m in range(num_heads):
            sample = m * num_samples * size
            for begin in range(start, stop, most):
                end = min(begin + most, stop)
                queries = order[begin:end]
                n = end - begin
                read_samples(
                    xs,
                    ys,
                    shares,
                    positions + 2 * sample,
                    attention + sample,
                    queries,
                    order[end : min(end + most, stop)],
                    num_heads * num_samples,
                    num_samples,
                )
                if reference_size > 0:
                    softmax(shares, origin[0], scale[0], n, num_samples)
                for level in range(num_levels):
                    height, width, level_offset, first, num_points = levels[level]
                    read_frame(
                        origin,
                        scale,
                        references + level * reference_size * size,
                        num_levels * reference_size,
                        queries,
                        number(height),
                        number(width),
                        number(box_scale / max(1, num_points)),
                        reference_size,
                    )
                    part = slice(first * n, (first + num_points) * n)
                    base = value + m * head_bytes + level_offset
                    place(
                        xs[part],
                        ys[part],
                        shares[part],
                        origin,
                        scale,
                        offsets,
                        weights,
                        n,
                        height,
                        width,
                        step,
                        np.int64(outside.ctypes.data) - base,
                    )
                    corner = num_points * n
                    for i in range(n):
                        target = out + m * head_bytes + queries[i] * step
                        # Two sums, since one would wait for each addition before the next.
                        upper = load(zero, target) if level > 0 else zero
                        lower = zero
                        for p in range(num_points):
                            k = p * n + i
                            row = load(zero, base + offsets[k])
                            upper = add_scaled(upper, weights[k], row)
                            row = load(zero, base + offsets[corner + k])
                            upper = add_scaled(upper, weights[corner + k], row)
                            row = load(zero, base + offsets[2 * corner + k])
                            lower = add_scaled(lower, weights[2 * corner + k], row)
                            row = load(zero, base + offsets[3 * corner + k])
                            lower = add_scaled(lower, weights[3 * corner + k], row)
                        store(target, add_rows(upper, lower))

    return compiled(forward)
