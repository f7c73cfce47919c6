"""The compiled backward of the CPU backend, of both forms of the operator.

Shape legend:
    b image, q query, i query of a block, m head, l level, p point, t token of a level,
    k sample of a block: the points of its queries, d channel of a head.

The work on one image, head and level owns that part of every gradient: nothing is shared between
threads, and every sum has one order.
"""

import functools
from typing import Any, no_type_check

import numpy as np
from numba.extending import register_jitable

from .cpu_compile import Kernel, compiled, sources
from .cpu_rows import add_to_row, four_dots, load, store, zero_row
from .cpu_samples import (
    ATTENTION,
    REACHES,
    ROWS,
    WEIGHTS,
    X,
    Y,
    frame,
    place,
    prefetch_lines,
    read_positions,
)


@register_jitable
@no_type_check
def _pixel_gradients(samples, dots, num_samples):
    """From the products of the corners with the gradient of the output, for each sample.

    In place: the shares of the corners become the gradients of the sample's pixel coordinates,
    the attention becomes its own gradient.
    """
    for k in range(num_samples):
        x = samples[X, k]
        y = samples[Y, k]
        attention = samples[ATTENTION, k]
        across = dots[k, 1] - dots[k, 0]
        across += y * (dots[k, 3] - dots[k, 2] - across)
        down = dots[k, 2] - dots[k, 0]
        left = dots[k, 0] + y * down
        down += x * (dots[k, 3] - dots[k, 1] - down)
        # No gradient, whatever it would be multiplied with, for a sample that reads nothing.
        reaches = samples[REACHES, k] != 0
        samples[X, k] = attention * across if reaches else samples[REACHES, k]
        samples[Y, k] = attention * down if reaches else samples[REACHES, k]
        samples[ATTENTION, k] = left + x * across


@register_jitable
@no_type_check
def _read_attention(samples, attention, queries, num_points, stride):
    number = samples.dtype.type
    for i in range(len(queries)):
        source = attention + queries[i] * stride
        for p in range(num_points):
            k = i * num_points + p
            samples[ATTENTION, k] = load(number(0), source + p * samples.itemsize)


@register_jitable
@no_type_check
def _put(address, number, further):
    """Write to ``address``, or, if ``further``, add to what is there."""
    if further:
        number += load(number, address)
    store(address, number)


@register_jitable
@no_type_check
def _times(gradient, factor):
    """Zero stays zero, even if the factor is not finite: such samples receive no gradient."""
    return gradient * factor if gradient != 0 else gradient


@register_jitable
@no_type_check
def _write_gradients(
    samples,
    grad_positions,
    grad_attention,
    queries,
    num_points,
    strides,
    references,
    units,
    further,
):
    """Gradients of a block's positions and attention, from those of its pixel coordinates."""
    number = samples.dtype.type
    size = samples.itemsize
    for i in range(len(queries)):
        q = queries[i]
        _, _, unit_x, unit_y = frame(number, size, references + q * strides[1], units)
        for p in range(num_points):
            k = i * num_points + p
            sample = q * strides[0] + p * size
            _put(grad_positions + 2 * sample, _times(samples[X, k], unit_x), further)
            _put(grad_positions + 2 * sample + size, _times(samples[Y, k], unit_y), further)
            _put(grad_attention + sample, samples[ATTENTION, k], further)


@register_jitable
@no_type_check
def _write_reference_gradients(
    samples, positions, grad_references, queries, num_points, strides, units, further
):
    """Gradients of a block's references, from those of its pixel coordinates."""
    number = samples.dtype.type
    size = samples.itemsize
    high, wide, share, reference_size = units
    for i in range(len(queries)):
        x = y = width = height = number(0)
        for p in range(num_points):
            k = i * num_points + p
            x += samples[X, k] * wide
            y += samples[Y, k] * high
            if reference_size == 4:
                offset = positions + 2 * (queries[i] * strides[0] + p * size)
                width += _times(samples[X, k] * wide, share * load(x, offset))
                height += _times(samples[Y, k] * high, share * load(y, offset + size))
        target = grad_references + queries[i] * strides[1]
        _put(target, x, further)
        _put(target + size, y, further)
        if reference_size == 4:
            _put(target + 2 * size, width, further)
            _put(target + 3 * size, height, further)


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
        scratch,
        packed,
        further,
    ):
        """All gradients of one image, head and level, given by the addresses of their parts.

        The gradient of the attention may have the address of the attention itself.

        ``further`` channels add to the gradients of positions, attention and references, the first
        ones write. Gradients of references have a part for each head, [Q, M, L, reference_size],
        or are left out if their address is 0.

        Rows of one head are far apart in memory. If ``packed``, each token's value and gradient
        are kept side by side until the end, where they share pages and leave none unused; that
        pays where samples are more numerous than tokens. At ``scratch`` is room for two rows, and
        for two of every token if ``packed``.
        """
        _ = stamp
        zero = zero_row(number, num_channels)
        samples = np.empty((ROWS, block), number)
        offsets = np.empty((4, block), np.int64)
        dots = np.empty((block, 4), number)
        queries_per_block = block // max(1, num_points)
        share = box_scale / max(1, num_points)
        units = (number(height), number(width), number(share), reference_size)
        # Bytes from query to query.
        step = num_heads * head_bytes
        strides = (num_heads * num_samples * size, num_levels * reference_size * size)
        head_strides = (strides[0], num_heads * strides[1])
        num_tokens = height * width

        row_bytes = num_channels * size
        # Corners outside the map read zeros, and what they write is not read.
        zeros = scratch
        unread = scratch + row_bytes
        store(zeros, zero)
        if packed:
            base, token_step, to_gradient = scratch + 2 * row_bytes, 2 * row_bytes, row_bytes
            for t in range(num_tokens):
                store(base + t * token_step, load(zero, value + t * step))
                store(base + t * token_step + row_bytes, zero)
        else:
            base, token_step, to_gradient = value, step, grad_value - value
            for t in range(num_tokens):
                store(grad_value + t * step, zero)
        nowhere = zeros - base

        for begin in range(0, len(order), queries_per_block):
            queries = order[begin : begin + queries_per_block]
            num_block_samples = len(queries) * num_points
            read_positions(samples, positions, references, queries, num_points, strides, units)
            _read_attention(samples, attention, queries, num_points, strides[0])
            place(
                samples,
                offsets,
                num_block_samples,
                height,
                width,
                token_step,
                nowhere,
            )
            for i in range(len(queries)):
                # A level's samples are far apart: waiting for them would take half of the time.
                here = queries[i]
                ahead = order[min(begin + queries_per_block + i, len(order) - 1)]
                prefetch_lines(positions + 2 * ahead * strides[0], 2 * num_points * size)
                prefetch_lines(attention + ahead * strides[0], num_points * size)
                prefetch_lines(grad_positions + 2 * here * strides[0], 2 * num_points * size)
                prefetch_lines(grad_attention + here * strides[0], num_points * size)
                prefetch_lines(grad_out + ahead * step, row_bytes)
                grad_row = load(zero, grad_out + here * step)
                for p in range(num_points):
                    k = i * num_points + p
                    products = four_dots(
                        load(zero, base + offsets[0, k]),
                        load(zero, base + offsets[1, k]),
                        load(zero, base + offsets[2, k]),
                        load(zero, base + offsets[3, k]),
                        grad_row,
                    )
                    store(np.int64(dots.ctypes.data) + 4 * k * size, products)
                    for c in range(4):
                        target = base + offsets[c, k] + to_gradient
                        target = unread if offsets[c, k] == nowhere else target
                        add_to_row(target, samples[WEIGHTS + c, k], grad_row)
            _pixel_gradients(samples, dots, num_block_samples)
            _write_gradients(
                samples,
                grad_positions,
                grad_attention,
                queries,
                num_points,
                strides,
                references,
                units,
                further,
            )
            if grad_references != 0:
                _write_reference_gradients(
                    samples,
                    positions,
                    grad_references,
                    queries,
                    num_points,
                    head_strides,
                    units,
                    further,
                )

        if packed:
            for t in range(num_tokens):
                row = load(zero, base + t * token_step + row_bytes)
                store(grad_value + t * step, row)

    addresses, counts = 9 * "intp, ", 7 * "int64, "
    return compiled(backward, f"void({addresses}int64[::1], {counts}f8, intp, boolean, boolean)")
