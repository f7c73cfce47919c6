# ruff: noqa: ARG001 (numba calls code generators with four arguments, whatever they need)
"""The compiled kernels of the CPU backend and the vector rows they are written in.

Shape legend:
    b image, q query, m head, l level, p point, t token of a level, d channel of a head,
    k sample of a block: the points of some queries, for one head and one level.

The unit of memory is a *row*, the channels of one token and head. Rows are a type of their own,
an LLVM vector, so that they stay in registers and compile to whatever the machine is widest at.
Corners outside the map read a row of zeros kept for them: neither a branch nor a product with
zero, which a NaN would survive.

All in one file, because numba's cache notices changes only in the file of the kernel itself.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, no_type_check

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic, models, register_jitable, register_model

# No nnan or ninf: non-finite numbers are part of the contract.
_FLAGS = {"contract", "nsz"}
# Lets a product and a sum become one instruction where the machine has it.
_CONTRACT = ("contract",)
# Rows of the scratch memory for samples.
_X, _Y, _ATTENTION, _WEIGHTS = range(4)
_ROWS = _WEIGHTS + 4

Kernel = Callable[..., None]


class _Row(types.Type):
    """``width`` numbers side by side in a vector register (or several)."""

    def __init__(self, number: Any, width: int) -> None:
        self.number = number
        self.width = width
        super().__init__(name=f"Row({number}, {width})")


@register_model(_Row)
class _RowModel(models.PrimitiveModel):
    def __init__(self, manager: Any, row: _Row) -> None:
        number = manager.lookup(row.number).get_value_type()
        vector = ir.VectorType(number, row.width)
        super().__init__(manager, row, vector)  # type: ignore[no-untyped-call]


def _lanes(positions: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(positions)), list(positions))


def _fold(builder: Any, a: Any, b: Any, terms: int) -> Any:
    """``a``, then ``b``, each group of so many ``terms`` added up to half as many."""
    lower = [lane for lane in range(2 * a.type.count) if lane % terms < terms // 2]
    upper = [lane + terms // 2 for lane in lower]
    return builder.fadd(
        builder.shuffle_vector(a, b, _lanes(lower)), builder.shuffle_vector(a, b, _lanes(upper))
    )


@intrinsic(prefer_literal=True)
def _zero_row(context: Any, number: Any, width: Any) -> Any:
    row = _Row(number.dtype, width.literal_value)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(context.get_value_type(row), None)

    return row(number, width), generate


@intrinsic
def _load(context: Any, like: Any, address: Any) -> Any:
    """The row or number at ``address``, of the type of ``like``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[1], args[0].type.as_pointer())
        return builder.load(pointer, align=_alignment(like))

    return like(like, types.intp), generate


@intrinsic
def _store(context: Any, address: Any, thing: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], args[1].type.as_pointer())
        builder.store(args[1], pointer, align=_alignment(thing))
        return context.get_dummy_value()

    return types.void(types.intp, thing), generate


@intrinsic
def _prefetch(context: Any, address: Any) -> Any:
    """Ask for a cache line that is needed soon; any address will do, even one out of bounds."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        flag = ir.IntType(32)
        pointer = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, flag, flag, flag])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", (pointer,), kind)
        # For reading, into the nearest cache, of data.
        builder.call(prefetch, [builder.inttoptr(args[0], pointer), flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(types.intp), generate


def _alignment(thing: Any) -> int:
    number = thing.number if isinstance(thing, _Row) else thing
    return int(number.bitwidth) // 8


@intrinsic
def _add_scaled(context: Any, total: Any, scale: Any, row: Any) -> Any:
    """``total + scale * row``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = args[0].type
        first = builder.insert_element(
            ir.Constant(vector, ir.Undefined), args[1], ir.Constant(ir.IntType(32), 0)
        )
        scales = builder.shuffle_vector(first, first, _lanes([0] * row.width))
        product = builder.fmul(scales, args[2], flags=_CONTRACT)
        return builder.fadd(args[0], product, flags=_CONTRACT)

    return total(total, total.number, total), generate


@intrinsic
def _add_rows(context: Any, a: Any, b: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(*args)

    return a(a, a), generate


@intrinsic
def _four_dots(context: Any, a: Any, b: Any, c: Any, d: Any, other: Any) -> Any:
    """A row of four: the inner products of ``a``, ``b``, ``c`` and ``d`` with ``other``.

    The four sums share one tree, which takes 13 instructions where four trees take 32.
    """
    result = _Row(other.number, 4)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        width = max(4, 1 << (other.width - 1).bit_length())
        # Lanes beyond the row all name the first lane of the zeros.
        padding = [min(lane, other.width) for lane in range(width)]
        zeros = ir.Constant(args[4].type, None)
        sums = []
        for row in args[:4]:
            total = builder.fmul(row, args[4])
            total = builder.shuffle_vector(total, zeros, _lanes(padding))
            while total.type.count > 16:
                half = total.type.count // 2
                lower = builder.shuffle_vector(total, total, _lanes(range(half)))
                upper = builder.shuffle_vector(total, total, _lanes(range(half, 2 * half)))
                total = builder.fadd(lower, upper)
            sums.append(total)
        first, second, third, fourth = sums
        terms = first.type.count
        left = _fold(builder, first, second, terms)
        right = _fold(builder, third, fourth, terms)
        total = _fold(builder, left, right, terms // 2)
        terms //= 4
        while terms > 1:
            swapped = [lane ^ (terms // 2) for lane in range(total.type.count)]
            total = builder.fadd(total, builder.shuffle_vector(total, total, _lanes(swapped)))
            terms //= 2
        groups = range(0, total.type.count, total.type.count // 4)
        return builder.shuffle_vector(total, total, _lanes(groups))

    return result(a, a, a, a, a), generate


@register_jitable
@no_type_check
def _aligned(array):
    """The first address in an array of bytes at which a cache line begins."""
    # Signed, since numba makes a float of the sum of a signed and an unsigned integer.
    return (np.int64(array.ctypes.data) + 63) & -64


@register_jitable
@no_type_check
def _add_to_row(address, scale, row):
    _store(address, _add_scaled(_load(row, address), scale, row))


@register_jitable
@no_type_check
def _read_samples(samples, locations, attention, num_queries, stride, num_points):
    """Locations and attention of a block of queries, ``stride`` samples apart, side by side."""
    number = samples.dtype.type
    size = samples.itemsize
    for q in range(num_queries):
        for p in range(num_points):
            source = (q * stride + p) * size
            k = q * num_points + p
            samples[_X, k] = _load(number(0), locations + 2 * source)
            samples[_Y, k] = _load(number(0), locations + 2 * source + size)
            samples[_ATTENTION, k] = _load(number(0), attention + source)


@register_jitable
@no_type_check
def _write_samples(samples, locations, attention, num_queries, stride, num_points, add):
    """The reverse of ``_read_samples``, or its sum with what is there."""
    number = samples.dtype.type
    size = samples.itemsize
    for q in range(num_queries):
        for p in range(num_points):
            target = (q * stride + p) * size
            k = q * num_points + p
            x = samples[_X, k]
            y = samples[_Y, k]
            a = samples[_ATTENTION, k]
            if add:
                x += _load(number(0), locations + 2 * target)
                y += _load(number(0), locations + 2 * target + size)
                a += _load(number(0), attention + target)
            _store(locations + 2 * target, x)
            _store(locations + 2 * target + size, y)
            _store(attention + target, a)


@register_jitable
@no_type_check
def _place(samples, offsets, num_samples, height, width, step, nowhere):
    """Where each sample reads: the offsets of its four corners, and their weights.

    ``step`` leads from a token's row to that of its right neighbour, ``nowhere`` from the level's
    first row to the one that stands for all corners outside.
    """
    number = samples.dtype.type
    high = number(height)
    wide = number(width)
    for k in range(num_samples):
        x = samples[_X, k] * wide - number(0.5)
        y = samples[_Y, k] * high - number(0.5)
        # False for NaN, too; only where it is true is the conversion to an integer defined.
        reaches = (x >= number(-1)) & (x < wide) & (y >= number(-1)) & (y < high)
        x = x if reaches else number(-2)
        y = y if reaches else number(-2)
        left = np.floor(x)
        top = np.floor(y)
        has_left = left >= number(0)
        has_top = top >= number(0)
        has_right = (left >= number(-1)) & (left < wide - number(1))
        has_bottom = (top >= number(-1)) & (top < high - number(1))
        at = (np.int64(top) * width + np.int64(left)) * step
        below = at + width * step
        offsets[0, k] = at if has_top & has_left else nowhere
        offsets[1, k] = at + step if has_top & has_right else nowhere
        offsets[2, k] = below if has_bottom & has_left else nowhere
        offsets[3, k] = below + step if has_bottom & has_right else nowhere
        share_x = x - left
        share_y = y - top
        samples[_X, k] = share_x
        samples[_Y, k] = share_y
        upper = (number(1) - share_y) * samples[_ATTENTION, k]
        lower = share_y * samples[_ATTENTION, k]
        samples[_WEIGHTS, k] = upper * (number(1) - share_x)
        samples[_WEIGHTS + 1, k] = upper * share_x
        samples[_WEIGHTS + 2, k] = lower * (number(1) - share_x)
        samples[_WEIGHTS + 3, k] = lower * share_x


def _compiled(function: Kernel) -> Kernel:
    compiler: Any = functools.partial(njit, nogil=True, fastmath=_FLAGS, error_model="numpy")
    try:
        return compiler(cache=True)(function)
    except RuntimeError:
        # numba found no folder to write its cache to: every process compiles for itself.
        return compiler()(function)


@functools.cache
def forward_kernel(number: type[np.floating[Any]], num_channels: int, block: int) -> Kernel:
    """Compiled for this dtype, these many channels, and blocks of so many samples."""
    size = np.dtype(number).itemsize

    @no_type_check
    def forward(
        value, locations, attention, out, levels, num_queries, num_heads, num_points, head_bytes
    ):
        """Output of some queries of one image, all arrays given by the address of their part.

        ``levels`` [L, 3] are height, width and offset of each level.
        """
        zero = _zero_row(number, num_channels)
        outside = np.zeros(num_channels, number)
        samples = np.empty((_ROWS, block), number)
        offsets = np.empty((4, block), np.int64)
        num_levels = levels.shape[0]
        stride = num_heads * num_levels * num_points
        step = num_heads * head_bytes
        queries_per_block = block // num_points
        for m in range(num_heads):
            for start in range(0, num_queries, queries_per_block):
                stop = min(start + queries_per_block, num_queries)
                for level in range(num_levels):
                    height, width, level_offset = levels[level]
                    base = value + m * head_bytes + level_offset
                    first = (start * stride + (m * num_levels + level) * num_points) * size
                    _read_samples(
                        samples,
                        locations + 2 * first,
                        attention + first,
                        stop - start,
                        stride,
                        num_points,
                    )
                    num_samples = (stop - start) * num_points
                    nowhere = np.int64(outside.ctypes.data) - base
                    _place(samples, offsets, num_samples, height, width, step, nowhere)
                    for q in range(start, stop):
                        ahead = first + (q - start + queries_per_block) * stride * size
                        _prefetch(locations + 2 * ahead)
                        _prefetch(attention + ahead)
                        target = out + m * head_bytes + q * step
                        # Two sums, since one would wait for each addition before the next.
                        upper = _load(zero, target) if level > 0 else zero
                        lower = zero
                        for p in range(num_points):
                            k = (q - start) * num_points + p
                            row = _load(zero, base + offsets[0, k])
                            upper = _add_scaled(upper, samples[_WEIGHTS, k], row)
                            row = _load(zero, base + offsets[1, k])
                            upper = _add_scaled(upper, samples[_WEIGHTS + 1, k], row)
                            row = _load(zero, base + offsets[2, k])
                            lower = _add_scaled(lower, samples[_WEIGHTS + 2, k], row)
                            row = _load(zero, base + offsets[3, k])
                            lower = _add_scaled(lower, samples[_WEIGHTS + 3, k], row)
                        _store(target, _add_rows(upper, lower))

    return _compiled(forward)


@functools.cache
def backward_kernel(number: type[np.floating[Any]], num_channels: int, block: int) -> Kernel:
    """Compiled for this dtype, these many channels, and blocks of so many samples."""
    size = np.dtype(number).itemsize

    @no_type_check
    def backward(
        grad_out,
        value,
        locations,
        attention,
        grad_value,
        grad_locations,
        grad_attention,
        num_queries,
        num_heads,
        num_levels,
        num_points,
        head_bytes,
        height,
        width,
        further,
    ):
        """All gradients of one image, head and level, given by the addresses of their parts.

        ``further`` channels add to the gradients of locations and attention, the first write.
        """
        zero = _zero_row(number, num_channels)
        samples = np.empty((_ROWS, block), number)
        offsets = np.empty((4, block), np.int64)
        dots = np.empty((block, 4), number)
        stride = num_heads * num_levels * num_points
        step = num_heads * head_bytes
        num_tokens = height * width

        # Each token's value and gradient side by side, and one pair for all corners outside: rows
        # of one head are far apart in memory, here they share pages and leave none unused.
        row_bytes = num_channels * size
        pairs = np.empty(2 * (num_tokens + 1) * row_bytes + 64, np.uint8)
        base = _aligned(pairs)
        for t in range(num_tokens):
            _store(base + 2 * t * row_bytes, _load(zero, value + t * step))
            _store(base + (2 * t + 1) * row_bytes, zero)
        _store(base + 2 * num_tokens * row_bytes, zero)
        _store(base + (2 * num_tokens + 1) * row_bytes, zero)

        queries_per_block = block // num_points
        for start in range(0, num_queries, queries_per_block):
            stop = min(start + queries_per_block, num_queries)
            first = start * stride * size
            _read_samples(
                samples,
                locations + 2 * first,
                attention + first,
                stop - start,
                stride,
                num_points,
            )
            num_samples = (stop - start) * num_points
            _place(
                samples,
                offsets,
                num_samples,
                height,
                width,
                2 * row_bytes,
                2 * num_tokens * row_bytes,
            )
            for q in range(start, stop):
                # A level's samples are far apart: waiting for them would take half of the time.
                here = first + (q - start) * stride * size
                ahead = here + queries_per_block * stride * size
                _prefetch(locations + 2 * ahead)
                _prefetch(attention + ahead)
                _prefetch(grad_locations + 2 * here)
                _prefetch(grad_attention + here)
                _prefetch(grad_out + (q + queries_per_block) * step)
                _prefetch(grad_out + (q + queries_per_block) * step + 64)
                grad_row = _load(zero, grad_out + q * step)
                for p in range(num_points):
                    k = (q - start) * num_points + p
                    upper_left = base + offsets[0, k]
                    upper_right = base + offsets[1, k]
                    lower_left = base + offsets[2, k]
                    lower_right = base + offsets[3, k]
                    products = _four_dots(
                        _load(zero, upper_left),
                        _load(zero, upper_right),
                        _load(zero, lower_left),
                        _load(zero, lower_right),
                        grad_row,
                    )
                    _store(np.int64(dots.ctypes.data) + 4 * k * size, products)
                    _add_to_row(upper_left + row_bytes, samples[_WEIGHTS, k], grad_row)
                    _add_to_row(upper_right + row_bytes, samples[_WEIGHTS + 1, k], grad_row)
                    _add_to_row(lower_left + row_bytes, samples[_WEIGHTS + 2, k], grad_row)
                    _add_to_row(lower_right + row_bytes, samples[_WEIGHTS + 3, k], grad_row)
            for k in range(num_samples):
                x = samples[_X, k]
                y = samples[_Y, k]
                across = dots[k, 1] - dots[k, 0]
                across += y * (dots[k, 3] - dots[k, 2] - across)
                down = dots[k, 2] - dots[k, 0]
                left = dots[k, 0] + y * down
                down += x * (dots[k, 3] - dots[k, 1] - down)
                samples[_X, k] = samples[_ATTENTION, k] * number(width) * across
                samples[_Y, k] = samples[_ATTENTION, k] * number(height) * down
                samples[_ATTENTION, k] = left + x * across
            _write_samples(
                samples,
                grad_locations + 2 * first,
                grad_attention + first,
                stop - start,
                stride,
                num_points,
                further,
            )

        for t in range(num_tokens):
            # Not base: numba frees an array after its last mention, whoever knows its address.
            row = _load(zero, _aligned(pairs) + (2 * t + 1) * row_bytes)
            _store(grad_value + t * step, row)

    return _compiled(backward)
