"""What the CPU kernels do with blocks of samples before and after they touch a row.

Shape legend:
    q query, i query of a block, p point of a level, k sample of a block: the points of its
    queries, for one head and one level.

Loops over k become vector instructions; hence the scratch memory, a row for each quantity.
"""

from typing import no_type_check

import numpy as np
from numba.extending import register_jitable

from .cpu_rows import bits_as_float, load, prefetch

# Rows of the scratch memory.
X, Y, ATTENTION, REACHES, WEIGHTS = range(5)
ROWS = WEIGHTS + 4
# The smallest power of e whose exponent of two float32 can write down directly.
_LEAST_EXPONENT = -87.3


@register_jitable
@no_type_check
def read_attention(attention, address, queries, stride):
    """Copy a head's attention to [samples, queries]; ``stride`` bytes lie between queries."""
    number = attention.dtype.type
    for i in range(len(queries)):
        source = address + queries[i] * stride
        for p in range(attention.shape[0]):
            attention[p, i] = load(number(0), source + p * attention.itemsize)


@register_jitable
@no_type_check
def take_attention(samples, attention, first, num_points, num_queries):
    """From the attention of all levels that of the points of one, into ``ATTENTION``."""
    for i in range(num_queries):
        for p in range(num_points):
            samples[ATTENTION, i * num_points + p] = attention[first + p, i]


@register_jitable
@no_type_check
def prefetch_lines(address, num_bytes):
    """Ask for the cache lines that hold so many bytes."""
    for line in range(0, num_bytes, 64):
        prefetch(address + line)


@register_jitable
@no_type_check
def frame(number, size, reference, units):
    """(x, y, width, height) such that pixel coordinates are ``x + width * position`` and so on.

    ``units`` are height and width of the level, the share of a box's side that a unit of offset
    is, and how many numbers a reference has: 0 if positions are locations, else 2 or 4 of them at
    the address ``reference``, positions being offsets.
    """
    high, wide, share, reference_size = units
    half = number(0.5)
    if reference_size == 0:
        return -half, -half, wide, high
    x = load(half, reference) * wide - half
    y = load(half, reference + size) * high - half
    if reference_size == 2:
        return x, y, number(1), number(1)
    width = load(half, reference + 2 * size) * share * wide
    height = load(half, reference + 3 * size) * share * high
    return x, y, width, height


@register_jitable
@no_type_check
def read_positions(samples, positions, references, queries, num_points, strides, units):
    """Pixel coordinates of a block, in ``X`` and ``Y``, from addresses of the level's first ones.

    ``strides`` are the bytes from the attention of a query to that of the next, half as many as
    for positions, and from reference to reference.
    """
    number = samples.dtype.type
    size = samples.itemsize
    for i in range(len(queries)):
        q = queries[i]
        x, y, unit_x, unit_y = frame(number, size, references + q * strides[1], units)
        for p in range(num_points):
            k = i * num_points + p
            position = positions + 2 * (q * strides[0] + p * size)
            samples[X, k] = x + unit_x * load(number(0), position)
            samples[Y, k] = y + unit_y * load(number(0), position + size)


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
def softmax(logits, largest, total, num_queries):
    """In place, over the samples of each query; [samples, queries] and two rows of scratch."""
    number = logits.dtype.type
    for i in range(num_queries):
        largest[i] = number(-np.inf)
        total[i] = number(0)
    for k in range(logits.shape[0]):
        for i in range(num_queries):
            x = logits[k, i]
            largest[i] = largest[i] if largest[i] > x else x
    for k in range(logits.shape[0]):
        for i in range(num_queries):
            x = logits[k, i] - largest[i]
            # float64 has a library function that is exact, float32 one that is fast.
            e = np.exp(x) if logits.itemsize == 8 else exponential(x)
            logits[k, i] = e
            total[i] += e
    for i in range(num_queries):
        total[i] = number(1) / total[i]
    for k in range(logits.shape[0]):
        for i in range(num_queries):
            logits[k, i] *= total[i]


@register_jitable
@no_type_check
def place(samples, offsets, num_samples, height, width, step, nowhere):
    """Where each sample reads: the offsets of its four corners, and their weights.

    ``step`` leads from a token's row to that of its right neighbour, ``nowhere`` from the level's
    first row to the one that stands for all corners outside. Pixel coordinates become the shares
    of the right and lower corners; ``REACHES`` is 1 for samples that touch the map, else 0.
    """
    number = samples.dtype.type
    high = number(height)
    wide = number(width)
    one = number(1)
    row_step = width * step
    for k in range(num_samples):
        x = samples[X, k]
        y = samples[Y, k]
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
        at = (np.int64(top) * width + np.int64(left)) * step
        below = at + row_step
        offsets[0, k] = at if has_top & has_left else nowhere
        offsets[1, k] = at + step if has_top & has_right else nowhere
        offsets[2, k] = below if has_bottom & has_left else nowhere
        offsets[3, k] = below + step if has_bottom & has_right else nowhere
        share_x = x - left
        share_y = y - top
        samples[X, k] = share_x
        samples[Y, k] = share_y
        samples[REACHES, k] = one if reaches else number(0)
        upper = (one - share_y) * samples[ATTENTION, k]
        lower = share_y * samples[ATTENTION, k]
        samples[WEIGHTS, k] = upper * (one - share_x)
        samples[WEIGHTS + 1, k] = upper * share_x
        samples[WEIGHTS + 2, k] = lower * (one - share_x)
        samples[WEIGHTS + 3, k] = lower * share_x
