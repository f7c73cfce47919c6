"""Multi-scale deformable attention on CPUs: numba kernels, compiled at first use.

Shape legend of the kernels:
    b image, q query, m head, l level, p point, t token of one level, d channel of a head,
    k sample: all (l, p) of one query in the forward kernel, (q, p) of a block of queries in the
    backward kernel, where the level is fixed.

The unit of memory is a *row*, the channels of one token and head. Rows are a type of their own,
an LLVM vector, so that they stay in registers and compile to whatever the machine is widest at.
Samples outside the map read a row of zeros kept for them: neither a branch nor a product with
zero, which a NaN would survive.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, models, register_jitable, register_model
from torch import Tensor

from .reference import compute_dtype
from .threads import run_tasks

# No nnan or ninf: non-finite numbers are part of the contract.
_FLAGS = {"contract", "nsz", "arcp"}
# Lets a product and a sum become one instruction where the machine has it.
_CONTRACT = ("contract",)
# A row of more channels would not leave room for itself and its sums in sixteen registers.
_WIDEST_ROW = 64
# Rows of the scratch memory for samples.
_X, _Y, _ATTENTION, _WEIGHTS = range(4)
_ROWS = _WEIGHTS + 4
_SAMPLES_PER_BLOCK = 256
_QUERIES_PER_TASK = 256
# Below this many channel products threads cost more than they bring (about 0.2 ms of one core).
_WORTH_THREADS = 2_000_000


_NUMBERS: dict[torch.dtype, type[np.floating]] = {
    torch.float32: np.float32,
    torch.float64: np.float64,
}


class _Row(types.Type):
    """``width`` numbers side by side in a vector register (or several)."""

    def __init__(self, number: types.Type, width: int) -> None:
        self.number = number
        self.width = width
        super().__init__(name=f"Row({number}, {width})")


@register_model(_Row)
class _RowModel(models.PrimitiveModel):
    def __init__(self, manager: Any, row: _Row) -> None:
        number = manager.lookup(row.number).get_value_type()
        super().__init__(manager, row, ir.VectorType(number, row.width))


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
        terms = sums[0].type.count
        pairs = [_fold(builder, *sums[:2], terms), _fold(builder, *sums[2:], terms)]
        total = _fold(builder, *pairs, terms // 2)
        terms //= 4
        while terms > 1:
            swapped = [lane ^ (terms // 2) for lane in range(total.type.count)]
            total = builder.fadd(total, builder.shuffle_vector(total, total, _lanes(swapped)))
            terms //= 2
        groups = range(0, total.type.count, total.type.count // 4)
        return builder.shuffle_vector(total, total, _lanes(groups))

    return result(a, a, a, a, a), generate


@register_jitable
def _add_to_row(address, scale, row):  # type: ignore[no-untyped-def]
    _store(address, _add_scaled(_load(row, address), scale, row))


@register_jitable
def _read_samples(samples, locations, attention, num_queries, stride, num_points):  # type: ignore[no-untyped-def]
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
def _write_samples(samples, locations, attention, num_queries, stride, num_points, add):  # type: ignore[no-untyped-def]
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
def _place(samples, offsets, num_samples, height, width, step, nowhere):  # type: ignore[no-untyped-def]
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


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    options = {"nogil": True, "fastmath": _FLAGS, "error_model": "numpy"}
    try:
        kernel = njit(cache=True, **options)(function)
    except RuntimeError:
        # numba found no folder to write its cache to: every process compiles for itself.
        kernel = njit(**options)(function)
    return cast(Callable[..., None], kernel)


@functools.cache
def _forward_kernel(
    number: type[np.floating], num_channels: int, block: int
) -> Callable[..., None]:
    """Compiled for this dtype, this many channels a head, and blocks of so many samples."""
    size = np.dtype(number).itemsize

    def forward(  # type: ignore[no-untyped-def]
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
def _backward_kernel(
    number: type[np.floating], num_channels: int, block: int
) -> Callable[..., None]:
    """Compiled for this dtype, this many channels a head, and blocks of so many samples."""
    size = np.dtype(number).itemsize

    def backward(  # type: ignore[no-untyped-def]
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
        base = (np.int64(pairs.ctypes.data) + 63) & -64
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

        # The address is asked for again because numba frees an array after its last mention.
        base = (np.int64(pairs.ctypes.data) + 63) & -64
        for t in range(num_tokens):
            _store(grad_value + t * step, _load(zero, base + (2 * t + 1) * row_bytes))

    return _compiled(backward)


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
def _level_table(shapes: tuple[tuple[int, int], ...], step: int) -> np.ndarray:
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

    def work(b: int, start: int, d: int, slice_channels: int) -> None:
        query = b * num_queries + start
        sample = query * num_heads * num_levels * num_points
        _forward_kernel(number, slice_channels, _block(num_points))(
            value_at + b * num_tokens * num_heads * head_bytes + d * size,
            locations_at + 2 * sample * size,
            attention_at + sample * size,
            out.data_ptr() + query * num_heads * head_bytes + d * size,
            levels,
            min(_QUERIES_PER_TASK, num_queries - start),
            num_heads,
            num_points,
            head_bytes,
        )

    tasks = (
        functools.partial(work, b, start, *channels)
        for b in range(num_images)
        for start in range(0, num_queries, _QUERIES_PER_TASK)
        for channels in _channel_slices(num_channels)
    )
    run_tasks(tasks, _useful_threads(attention_weights, num_channels))
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
    tensors = (value, sampling_locations, attention_weights)
    if attention_weights.numel() == 0 or value.numel() == 0:
        return tuple(x.new_zeros(x.shape) for x in tensors)
    inputs = [x.detach().to(dtype).contiguous() for x in (grad_out, *tensors)]
    grads = [torch.empty(x.shape, dtype=dtype) for x in tensors]
    size = dtype.itemsize
    head_bytes = num_channels * size
    levels = _level_table(tuple(spatial_shapes), num_heads * head_bytes).tolist()
    grad_out_at, value_at, locations_at, attention_at = (x.data_ptr() for x in inputs)
    grad_value_at, grad_locations_at, grad_attention_at = (x.data_ptr() for x in grads)
    number = _NUMBERS[dtype]

    def work(level: int, b: int, m: int) -> None:
        height, width, level_offset = levels[level]
        rows = b * num_tokens * num_heads * head_bytes + level_offset + m * head_bytes
        out_rows = (b * num_queries * num_heads + m) * head_bytes
        sample = ((b * num_queries * num_heads + m) * num_levels + level) * num_points * size
        for d, slice_channels in _channel_slices(num_channels):
            _backward_kernel(number, slice_channels, _block(num_points))(
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
    return tuple(grad.to(x.dtype) for grad, x in zip(grads, tensors, strict=True))
