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
from collections.abc import Callable, Iterator, Sequence
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
_QUERIES_PER_BLOCK = 64
# Below this many channel products threads cost more than they bring (about 0.2 ms of one core).
_WORTH_THREADS = 2_000_000


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
def _row_at(context: Any, like: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[1], args[0].type.as_pointer())
        return builder.load(pointer, align=like.number.bitwidth // 8)

    return like(like, types.intp), generate


@intrinsic
def _put_row(context: Any, address: Any, row: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], args[1].type.as_pointer())
        builder.store(args[1], pointer, align=row.number.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(types.intp, row), generate


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
def _address(array):  # type: ignore[no-untyped-def]
    # Signed, since numba makes a float of the sum of a signed and an unsigned integer.
    return np.int64(array.ctypes.data)


@register_jitable
def _add_to_row(address, scale, row):  # type: ignore[no-untyped-def]
    _put_row(address, _add_scaled(_row_at(row, address), scale, row))


@register_jitable
def _place(xy, attention, sizes, firsts, pitches, step, nowhere, offsets, scaled, shares):  # type: ignore[no-untyped-def]
    """Where each sample k reads: the offsets of its four corners and their weights.

    In: ``sizes`` [2, k] are the level's width and height. ``firsts`` [k] is the offset of the
    level's first row, ``pitches`` [k] what leads one line of tokens down, ``step`` one token to
    the right, and ``nowhere`` to the row that stands for all corners outside.
    Out: ``offsets`` [4, k] and ``scaled`` [4, k], bilinear weight times attention, of the corners
    near near, near far, far near, far far (y first); ``shares`` [2, k], the fractions x and y of
    the way to the far corners.
    """
    number = shares.dtype.type
    for k in range(attention.size):
        width = sizes[0, k]
        height = sizes[1, k]
        x = xy[k, 0] * width - number(0.5)
        y = xy[k, 1] * height - number(0.5)
        # False for NaN, too; only where true is the conversion to an integer defined.
        reaches = (x >= number(-1)) & (x < width) & (y >= number(-1)) & (y < height)
        x = x if reaches else number(-2)
        y = y if reaches else number(-2)
        left = np.floor(x)
        top = np.floor(y)
        has_left = left >= number(0)
        has_top = top >= number(0)
        has_right = (left >= number(-1)) & (left < width - number(1))
        has_bottom = (top >= number(-1)) & (top < height - number(1))
        at = firsts[k] + np.int64(top) * pitches[k] + np.int64(left) * step
        below = at + pitches[k]
        offsets[0, k] = at if has_top & has_left else nowhere
        offsets[1, k] = at + step if has_top & has_right else nowhere
        offsets[2, k] = below if has_bottom & has_left else nowhere
        offsets[3, k] = below + step if has_bottom & has_right else nowhere
        share_x = x - left
        share_y = y - top
        shares[0, k] = share_x
        shares[1, k] = share_y
        near = (number(1) - share_y) * attention[k]
        far = share_y * attention[k]
        scaled[0, k] = near * (number(1) - share_x)
        scaled[1, k] = near * share_x
        scaled[2, k] = far * (number(1) - share_x)
        scaled[3, k] = far * share_x


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    options = {"nogil": True, "fastmath": _FLAGS, "error_model": "numpy"}
    try:
        kernel = njit(cache=True, **options)(function)
    except RuntimeError:
        # numba found no folder to write its cache to: every process compiles for itself.
        kernel = njit(**options)(function)
    return cast(Callable[..., None], kernel)


@functools.cache
def _forward_kernel(number: type[np.floating], num_channels: int) -> Callable[..., None]:
    """The forward kernel for a slice of so many channels, a constant of the compiled code."""

    def forward(value, locations, attention, sizes, firsts, pitches, out, b, start, stop, d):  # type: ignore[no-untyped-def]
        num_heads = value.shape[2]
        num_samples = attention.shape[3]
        row_bytes = value.shape[3] * value.itemsize
        offsets = np.empty((4, num_samples), np.int64)
        scaled = np.empty((4, num_samples), number)
        shares = np.empty((2, num_samples), number)
        nothing = np.zeros(num_channels, number)
        zero = _zero_row(number, num_channels)
        for m in range(num_heads):
            base = _address(value[b, :, m, d:])
            target = _address(out[b, :, m, d:])
            nowhere = _address(nothing) - base
            for q in range(start, stop):
                _place(
                    locations[b, q, m],
                    attention[b, q, m],
                    sizes,
                    firsts,
                    pitches,
                    num_heads * row_bytes,
                    nowhere,
                    offsets,
                    scaled,
                    shares,
                )
                # Two sums, since one would wait for each addition to end before the next.
                near = zero
                far = zero
                for k in range(num_samples):
                    row = _row_at(zero, base + offsets[0, k])
                    near = _add_scaled(near, scaled[0, k], row)
                    row = _row_at(zero, base + offsets[1, k])
                    near = _add_scaled(near, scaled[1, k], row)
                    row = _row_at(zero, base + offsets[2, k])
                    far = _add_scaled(far, scaled[2, k], row)
                    row = _row_at(zero, base + offsets[3, k])
                    far = _add_scaled(far, scaled[3, k], row)
                _put_row(target + q * num_heads * row_bytes, _add_rows(near, far))

    return _compiled(forward)


@functools.cache
def _backward_kernel(number: type[np.floating], num_channels: int) -> Callable[..., None]:
    """The backward kernel for a slice of so many channels, a constant of the compiled code."""

    def backward(  # type: ignore[no-untyped-def]
        grad_out,
        value,
        locations,
        attention,
        width,
        height,
        first_token,
        grad_value,
        grad_locations,
        grad_attention,
        b,
        m,
        level,
        d,
    ):
        num_queries, _, _, num_points = attention.shape[1:]
        num_tokens = width * height
        token_bytes = value.shape[2] * value.shape[3] * value.itemsize
        row_bytes = num_channels * value.itemsize
        value_at = _address(value[b, first_token:, m, d:])
        grad_value_at = _address(grad_value[b, first_token:, m, d:])
        grad_out_at = _address(grad_out[b, :, m, d:])

        # Each token's value and gradient side by side, and a last pair for corners outside: the
        # rows of one head are far apart in memory, here they share pages and cache lines.
        pairs = np.empty((num_tokens + 1, 2, num_channels), number)
        base = _address(pairs)
        zero = _zero_row(number, num_channels)
        for t in range(num_tokens):
            row = _row_at(zero, value_at + t * token_bytes)
            _put_row(base + 2 * t * row_bytes, row)
            _put_row(base + (2 * t + 1) * row_bytes, zero)
        _put_row(base + 2 * num_tokens * row_bytes, zero)
        _put_row(base + (2 * num_tokens + 1) * row_bytes, zero)

        block = _QUERIES_PER_BLOCK * num_points
        xy = np.zeros((block, 2), number)
        a = np.zeros(block, number)
        sizes = np.empty((2, block), number)
        sizes[0] = width
        sizes[1] = height
        firsts = np.zeros(block, np.int64)
        pitches = np.full(block, 2 * width * row_bytes)
        offsets = np.empty((4, block), np.int64)
        scaled = np.empty((4, block), number)
        shares = np.empty((2, block), number)
        dots = np.empty((block, 4), number)
        for start in range(0, num_queries, _QUERIES_PER_BLOCK):
            stop = min(start + _QUERIES_PER_BLOCK, num_queries)
            for q in range(start, stop):
                for p in range(num_points):
                    k = (q - start) * num_points + p
                    xy[k, 0] = locations[b, q, m, level, p, 0]
                    xy[k, 1] = locations[b, q, m, level, p, 1]
                    a[k] = attention[b, q, m, level, p]
            _place(
                xy,
                a,
                sizes,
                firsts,
                pitches,
                2 * row_bytes,
                2 * num_tokens * row_bytes,
                offsets,
                scaled,
                shares,
            )
            for q in range(start, stop):
                grad_row = _row_at(zero, grad_out_at + q * token_bytes)
                for p in range(num_points):
                    k = (q - start) * num_points + p
                    near_near = base + offsets[0, k]
                    near_far = base + offsets[1, k]
                    far_near = base + offsets[2, k]
                    far_far = base + offsets[3, k]
                    products = _four_dots(
                        _row_at(zero, near_near),
                        _row_at(zero, near_far),
                        _row_at(zero, far_near),
                        _row_at(zero, far_far),
                        grad_row,
                    )
                    _put_row(_address(dots[k]), products)
                    _add_to_row(near_near + row_bytes, scaled[0, k], grad_row)
                    _add_to_row(near_far + row_bytes, scaled[1, k], grad_row)
                    _add_to_row(far_near + row_bytes, scaled[2, k], grad_row)
                    _add_to_row(far_far + row_bytes, scaled[3, k], grad_row)
            for q in range(start, stop):
                for p in range(num_points):
                    k = (q - start) * num_points + p
                    x = shares[0, k]
                    y = shares[1, k]
                    across = dots[k, 1] - dots[k, 0]
                    across += y * (dots[k, 3] - dots[k, 2] - across)
                    left = dots[k, 0] + y * (dots[k, 2] - dots[k, 0])
                    down = dots[k, 2] - dots[k, 0]
                    down += x * (dots[k, 3] - dots[k, 1] - down)
                    # Slices of channels after the first one add to what is there.
                    grad_locations[b, q, m, level, p, 0] += a[k] * sizes[0, k] * across
                    grad_locations[b, q, m, level, p, 1] += a[k] * sizes[1, k] * down
                    grad_attention[b, q, m, level, p] += left + x * across

        # From the array's address once more: numba frees an array after its last mention.
        base = _address(pairs)
        for t in range(num_tokens):
            row = _row_at(zero, base + (2 * t + 1) * row_bytes)
            _put_row(grad_value_at + t * token_bytes, row)

    return _compiled(backward)


def _channel_slices(num_channels: int) -> list[tuple[int, int]]:
    """(first channel, number of channels) of each pass over the samples."""
    starts = range(0, num_channels, _WIDEST_ROW)
    return [(start, min(_WIDEST_ROW, num_channels - start)) for start in starts]


def _array(tensor: Tensor, dtype: torch.dtype) -> np.ndarray:
    return tensor.detach().to(dtype).contiguous().numpy()


def _useful_threads(attention: Tensor, num_channels: int) -> int:
    products = 4 * attention.numel() * num_channels
    return torch.get_num_threads() if products >= _WORTH_THREADS else 1


@functools.lru_cache(maxsize=64)
def _sample_tables(
    number: type[np.floating], shapes: tuple[tuple[int, int], ...], num_points: int, step: int
) -> list[np.ndarray]:
    """For each sample (l, p): (width, height), offset of the level, bytes to the line below."""
    starts = itertools.accumulate((h * w for h, w in shapes[:-1]), initial=0)
    sizes = np.array([(w, h) for h, w in shapes], number).T
    firsts = np.array([start * step for start in starts], np.int64)
    pitches = np.array([w * step for _, w in shapes], np.int64)
    tables = (sizes, firsts, pitches)
    return [np.ascontiguousarray(np.repeat(table, num_points, axis=-1)) for table in tables]


def forward(
    value: Float[Tensor, "B S M D"],
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Float[Tensor, "B Q M L P 2"],
    attention_weights: Float[Tensor, "B Q M L P"],
) -> Float[Tensor, "B Q M*D"]:
    """As ``ms_deform_attn_reference``; arguments are taken to be consistent."""
    dtype = compute_dtype(value, sampling_locations, attention_weights)
    num_images, num_queries, num_heads, _, num_points = attention_weights.shape
    num_channels = value.shape[3]
    out = value.new_empty(num_images, num_queries, num_heads * num_channels, dtype=dtype)
    tokens = _array(value, dtype)
    number = tokens.dtype.type
    step = num_heads * num_channels * tokens.itemsize
    arguments = (
        tokens,
        _array(sampling_locations.flatten(3, 4), dtype),
        _array(attention_weights.flatten(3, 4), dtype),
        *_sample_tables(number, tuple(spatial_shapes), num_points, step),
        out.view(num_images, num_queries, num_heads, num_channels).numpy(),
    )

    def tasks() -> Iterator[Callable[[], None]]:
        for b in range(num_images):
            for start in range(0, num_queries, _QUERIES_PER_BLOCK):
                stop = min(start + _QUERIES_PER_BLOCK, num_queries)
                for d, slice_channels in _channel_slices(num_channels):
                    kernel = _forward_kernel(number, slice_channels)
                    yield functools.partial(kernel, *arguments, b, start, stop, d)

    run_tasks(tasks(), _useful_threads(attention_weights, num_channels))
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
    num_images, num_queries, num_heads, _, _ = attention_weights.shape
    num_channels = value.shape[3]
    grad_value = torch.empty(value.shape, dtype=dtype)
    grad_locations = torch.zeros(sampling_locations.shape, dtype=dtype)
    grad_attention = torch.zeros(attention_weights.shape, dtype=dtype)
    tokens = _array(value, dtype)
    number = tokens.dtype.type
    grad_rows = grad_out.reshape(num_images, num_queries, num_heads, num_channels)
    inputs = (
        _array(grad_rows, dtype),
        tokens,
        _array(sampling_locations, dtype),
        _array(attention_weights, dtype),
    )
    results = (grad_value.numpy(), grad_locations.numpy(), grad_attention.numpy())

    def work(b: int, m: int, level: int, width: int, height: int, first_token: int) -> None:
        for d, slice_channels in _channel_slices(num_channels):
            kernel = _backward_kernel(number, slice_channels)
            kernel(*inputs, width, height, first_token, *results, b, m, level, d)

    def tasks() -> Iterator[Callable[[], None]]:
        first_token = 0
        for level, (height, width) in enumerate(spatial_shapes):
            for b, m in itertools.product(range(num_images), range(num_heads)):
                yield functools.partial(work, b, m, level, width, height, first_token)
            first_token += height * width

    run_tasks(tasks(), _useful_threads(attention_weights, num_channels))
    return (
        grad_value.to(value.dtype),
        grad_locations.to(sampling_locations.dtype),
        grad_attention.to(attention_weights.dtype),
    )
