"""What the CPU kernels do with blocks of samples before they touch a row.

Shape legend:
    q query, i query of a block, p point of a level, k sample of a query and head (all levels),
    n number of queries of a block.

A block holds the samples of some queries and one head, those of all queries at one point side by
side: sample k of query i is number ``k * n + i``. Loops over it become vector instructions.
"""

from typing import no_type_check

import numpy as np
from numba.extending import register_jitable

from .cpu_rows import bits_as_float, load, prefetch, store

# 2**-126, the smallest float32 whose exponent can be written down directly.
_LEAST_EXPONENT = -87.3


@register_jitable
@no_type_check
def read_samples(xs, ys, attention, positions_at, attention_at, queries, following, stride, points):
    """Copy the positions and attention of a block, whose first sample is at the two addresses.

    ``stride`` samples lie between queries. The block that comes next is asked for.
    """
    number = xs.dtype.type
    size = xs.itemsize
    n = len(queries)
    for i in range(n):
        sample = queries[i] * stride * size
        for p in range(points):
            k = p * n + i
            xs[k] = load(number(0), positions_at + 2 * (sample + p * size))
            ys[k] = load(number(0), positions_at + 2 * (sample + p * size) + size)
            attention[k] = load(number(0), attention_at + sample + p * size)
    for i in range(len(following)):
        sample = following[i] * stride * size
        for line in range(0, 2 * points * size, 64):
            prefetch(positions_at + 2 * sample + line)
        for line in range(0, points * size, 64):
            prefetch(attention_at + sample + line)


@register_jitable
@no_type_check
def write_samples(xs, ys, attention, positions_at, attention_at, queries, stride, points, further):
    """The reverse of ``read_samples``, or, if ``further``, its sum with what is there."""
    number = xs.dtype.type
    size = xs.itemsize
    n = len(queries)
    for i in range(n):
        sample = queries[i] * stride * size
        for p in range(points):
            k = p * n + i
            x = xs[k]
            y = ys[k]
            a = attention[k]
            if further:
                x += load(number(0), positions_at + 2 * (sample + p * size))
                y += load(number(0), positions_at + 2 * (sample + p * size) + size)
                a += load(number(0), attention_at + sample + p * size)
            store(positions_at + 2 * (sample + p * size), x)
            store(positions_at + 2 * (sample + p * size) + size, y)
            store(attention_at + sample + p * size, a)


@register_jitable
@no_type_check
def exponential(x):
    """e to the power of x <= 0, by Cody and Waite's reduction and a polynomial.

    float32 only, with an error of 1.1 units in the last place (float64 has numpy's): the library's
    exponential would be called for one number after another, this one becomes vector instructions.
    """
    f = np.float32
    # The reverse test would let a NaN into the conversion to an integer.
    usable = x >= f(_LEAST_EXPONENT)
    z = x if usable else f(0)
    twos = np.floor(z * f(1.44269504) + f(0.5))
    r = z - twos * f(0.693359375)
    r = r + twos * f(2.12194440e-4)
    s = f(1.9875691500e-4)
    s = s * r + f(1.3981999507e-3)
    s = s * r + f(8.3334519073e-3)
    s = s * r + f(4.1665795894e-2)
    s = s * r + f(1.6666665459e-1)
    s = s * r + f(5.0000001201e-1)
    s = s * r * r + r + f(1)
    power = bits_as_float(np.int32((np.int32(twos) + np.int32(127)) << np.int32(23)))
    vanishing = f(0) if x < f(_LEAST_EXPONENT) else x
    return s * power if usable else vanishing


@register_jitable
@no_type_check
def softmax(logits, largest, total, n, num_samples):
    """In place, over the samples of each of the ``n`` queries of a block."""
    number = logits.dtype.type
    largest[:n] = number(-np.inf)
    total[:n] = number(0)
    for k in range(num_samples):
        for i in range(n):
            x = logits[k * n + i]
            largest[i] = largest[i] if largest[i] > x else x
    for k in range(num_samples):
        for i in range(n):
            x = logits[k * n + i] - largest[i]
            # float64 has a library function that is exact, float32 one that is fast.
            e = np.exp(x) if logits.itemsize == 8 else exponential(x)
            logits[k * n + i] = e
            total[i] += e
    for i in range(n):
        total[i] = number(1) / total[i]
    for k in range(num_samples):
        for i in range(n):
            logits[k * n + i] *= total[i]


@register_jitable
@no_type_check
def read_frame(origin, scale, references_at, stride, queries, high, wide, share, reference_size):
    """Where pixel coordinates start and what one unit of a position is worth, for each query.

    ``pixel = origin + scale * position``, in x and y. Positions are locations if there are no
    references (``reference_size`` 0), else offsets from points (2) or boxes (4), of whose half
    sides, say, a unit is a ``share``. ``stride`` numbers lie between the references of queries.
    """
    number = origin.dtype.type
    size = origin.itemsize
    half = number(0.5)
    for i in range(len(queries)):
        reference = references_at + queries[i] * stride * size
        if reference_size == 0:
            origin[0, i] = -half
            origin[1, i] = -half
            scale[0, i] = wide
            scale[1, i] = high
        else:
            origin[0, i] = load(half, reference) * wide - half
            origin[1, i] = load(half, reference + size) * high - half
            scale[0, i] = number(1)
            scale[1, i] = number(1)
        if reference_size == 4:
            scale[0, i] = load(half, reference + 2 * size) * share * wide
            scale[1, i] = load(half, reference + 3 * size) * share * high


@register_jitable
@no_type_check
def place(xs, ys, attention, origin, scale, offsets, weights, n, height, width, step, nowhere):
    """Where each sample of a level reads: the offsets of its four corners, and their weights.

    ``step`` leads from a token's row to that of its right neighbour, ``nowhere`` from the level's
    first row to the one that stands for all corners outside. Positions become the shares of the
    right and lower corners.
    """
    number = xs.dtype.type
    high = number(height)
    wide = number(width)
    one = number(1)
    row_step = width * step
    # Products of 32-bit numbers, which vector units multiply faster.
    wide_integer = np.int32(width)
    step_integer = np.int64(np.int32(step))
    num_samples = len(xs)
    for p in range(num_samples // n):
        for i in range(n):
            k = p * n + i
            x = origin[0, i] + xs[k] * scale[0, i]
            y = origin[1, i] + ys[k] * scale[1, i]
            # False for NaN, too; only where it is true is the conversion to an integer defined.
            reaches = (x >= -one) & (x < wide) & (y >= -one) & (y < high)
            x = x if reaches else number(-2)
            y = y if reaches else number(-2)
            left = np.floor(x)
            top = np.floor(y)
            has_left = left >= number(0)
            has_top = top >= number(0)
            has_right = (left >= -one) & (left < wide - one)
            has_bottom = (top >= -one) & (top < high - one)
            token = np.int32(np.int32(top) * wide_integer + np.int32(left))
            at = np.int64(token) * step_integer
            below = at + row_step
            offsets[k] = at if has_top & has_left else nowhere
            offsets[num_samples + k] = at + step if has_top & has_right else nowhere
            offsets[2 * num_samples + k] = below if has_bottom & has_left else nowhere
            offsets[3 * num_samples + k] = below + step if has_bottom & has_right else nowhere
            share_x = x - left
            share_y = y - top
            xs[k] = share_x
            ys[k] = share_y
            upper = (one - share_y) * attention[k]
            lower = share_y * attention[k]
            weights[k] = upper * (one - share_x)
            weights[num_samples + k] = upper * share_x
            weights[2 * num_samples + k] = lower * (one - share_x)
            weights[3 * num_samples + k] = lower * share_x
