"""The compiled backward of the CPU backend, of both forms of the operator.

Shape legend:
    b image, q query, i query of a block, m head, l level, p point, t token of a level,
    n number of queries of a block, d channel of a head.

The work on one image, head and level owns that part of every gradient: nothing is shared between
threads, and every sum has one order.
"""

import functools
from typing import Any, no_type_check

import numpy as np
from numba.extending import register_jitable

from .cpu_compile import Kernel, compiled, sources
from .cpu_rows import add_to_row, aligned, four_dots, load, prefetch, store, zero_row
from .cpu_samples import place, read_frame, read_samples, write_samples


@register_jitable
@no_type_check
def _pixel_gradients(shares_x, shares_y, attention, dots):
    """From the products of the corners with the gradient of the output, for each sample.

    In place: the shares of the corners become the gradients of the sample's pixel coordinates,
    the attention becomes its own gradient.
    """
    for k in range(len(shares_x)):
        x = shares_x[k]
        y = shares_y[k]
        across = dots[k, 1] - dots[k, 0]
        across += y * (dots[k, 3] - dots[k, 2] - across)
        down = dots[k, 2] - dots[k, 0]
        left = dots[k, 0] + y * down
        down += x * (dots[k, 3] - dots[k, 1] - down)
        # Zero also where the attention is not finite: such a sample may not have touched the map.
        shares_x[k] = attention[k] * across if across != 0 else across
        shares_y[k] = attention[k] * down if down != 0 else down
        attention[k] = left + x * across


@register_jitable
@no_type_check
def _add_up_references(
    gradients, pixel_xs, pixel_ys, offset_xs, offset_ys, queries, stride, frame, further
):
    """Gradients of the references of a block, summed over the points, to the address given.

    ``frame`` is height and width of the level and the share of a box's side in a unit of offset,
    or zero of it if references are points.
    """
    number = pixel_xs.dtype.type
    size = pixel_xs.itemsize
    high, wide, share = frame
    n = len(queries)
    for i in range(n):
        sums = (number(0), number(0), number(0), number(0))
        for k in range(i, len(pixel_xs), n):
            x = pixel_xs[k] * wide
            y = pixel_ys[k] * high
            across = x * offset_xs[k] * share if x != 0 else x
            down = y * offset_ys[k] * share if y != 0 else y
            sums = (sums[0] + x, sums[1] + y, sums[2] + across, sums[3] + down)
        target = gradients + queries[i] * stride * size
        for r in range(4 if share != 0 else 2):
            total = sums[r]
            if further:
                total += load(number(0), target + r * size)
            store(target + r * size, total)


@register_jitable
@no_type_check
def _scale_gradients(xs, scale, n):
    """From the gradients of pixel coordinates to those of positions; zero stays zero."""
    for p in range(len(xs) // n):
        for i in range(n):
            k = p * n + i
            xs[k] = xs[k] * scale[i] if xs[k] != 0 else xs[k]


@functools.cache
def backward_kernel(
    number: type[np.floating[Any]], num_channels: int, reference_size: int, block: int
) -> Kernel:
    """Compiled for this dtype, these many channels, and blocks of so many samples of a level.

    ``reference_size`` as in ``forward_kernel``, but the attention is given by its weights.
    """
    size = np.dtype(number).itemsize
    stamp = sources()

    @no_type_check
    def backward(
        grad_out,
        value,
        positions,
        attention,
        references,
        grad_value,
        grad_positions,
        grad_attention,
        grad_references,
        order,
        num_heads,
        num_levels,
        num_samples,
        num_points,
        head_bytes,
        height,
        width,
        box_scale,
        further,
    ):
        """All gradients of one image, head and level, given by the addresses of their parts.

        ``further`` channels add to the gradients of positions, attention and references, the first
        ones write. Gradients of references have a part for each head, [Q, M, L, reference_size].
        """
        _ = stamp
        zero = zero_row(number, num_channels)
        xs = np.empty(block, number)
        ys = np.empty(block, number)
        offset_xs = np.empty(block, number)
        offset_ys = np.empty(block, number)
        shares = np.empty(block, number)
        offsets = np.empty(4 * block, np.int64)
        weights = np.empty(4 * block, number)
        dots = np.empty((block, 4), number)
        most = block // max(1, num_points)
        origin = np.empty((2, most), number)
        scale = np.empty((2, most), number)
        stride = num_heads * num_samples
        step = num_heads * head_bytes
        num_tokens = height * width
        num_queries = len(order)
        share = number(box_scale / max(1, num_points)) if reference_size == 4 else number(0)

        # Each token's value and gradient side by side, and one pair for all corners outside: rows
        # of one head are far apart in memory, here they share pages and leave none unused.
        row_bytes = num_channels * size
        pairs = np.empty(2 * (num_tokens + 1) * row_bytes + 64, np.uint8)
        base = aligned(pairs)
        for t in range(num_tokens):
            store(base + 2 * t * row_bytes, load(zero, value + t * step))
            store(base + (2 * t + 1) * row_bytes, zero)
        store(base + 2 * num_tokens * row_bytes, zero)
        store(base + (2 * num_tokens + 1) * row_bytes, zero)

        for begin in range(0, num_queries, most):
            end = min(begin + most, num_queries)
            queries = order[begin:end]
            following = order[end : min(end + most, num_queries)]
            n = end - begin
            part = slice(0, num_points * n)
            read_samples(
                xs, ys, shares, positions, attention, queries, following, stride, num_points
            )
            read_frame(
                origin,
                scale,
                references,
                num_levels * reference_size,
                queries,
                number(height),
                number(width),
                share,
                reference_size,
            )
            if reference_size == 4:
                offset_xs[part] = xs[part]
                offset_ys[part] = ys[part]
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
                2 * row_bytes,
                2 * num_tokens * row_bytes,
            )
            corner = num_points * n
            for i in range(n):
                # A level's samples are far apart: waiting for them would take half of the time.
                sample = queries[i] * stride * size
                prefetch(grad_positions + 2 * sample)
                prefetch(grad_attention + sample)
                if i < len(following):
                    prefetch(grad_out + following[i] * step)
                    prefetch(grad_out + following[i] * step + 64)
                grad_row = load(zero, grad_out + queries[i] * step)
                for p in range(num_points):
                    k = p * n + i
                    upper_left = base + offsets[k]
                    upper_right = base + offsets[corner + k]
                    lower_left = base + offsets[2 * corner + k]
                    lower_right = base + offsets[3 * corner + k]
                    products = four_dots(
                        load(zero, upper_left),
                        load(zero, upper_right),
                        load(zero, lower_left),
                        load(zero, lower_right),
                        grad_row,
                    )
                    store(np.int64(dots.ctypes.data) + 4 * k * size, products)
                    add_to_row(upper_left + row_bytes, weights[k], grad_row)
                    add_to_row(upper_right + row_bytes, weights[corner + k], grad_row)
                    add_to_row(lower_left + row_bytes, weights[2 * corner + k], grad_row)
                    add_to_row(lower_right + row_bytes, weights[3 * corner + k], grad_row)
            _pixel_gradients(xs[part], ys[part], shares[part], dots)
            if reference_size > 0:
                _add_up_references(
                    grad_references,
                    xs[part],
                    ys[part],
                    offset_xs[part],
                    offset_ys[part],
                    queries,
                    num_heads * num_levels * reference_size,
                    (number(height), number(width), share),
                    further,
                )
            _scale_gradients(xs[part], scale[0], n)
            _scale_gradients(ys[part], scale[1], n)
            write_samples(
                xs,
                ys,
                shares,
                grad_positions,
                grad_attention,
                queries,
                stride,
                num_points,
                further,
            )

        for t in range(num_tokens):
            # Not base: numba frees an array after its last mention, whoever knows its address.
            row = load(zero, aligned(pairs) + (2 * t + 1) * row_bytes)
            store(grad_value + t * step, row)

    return compiled(backward)
