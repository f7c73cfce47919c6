# ruff: noqa: ARG001 (numba calls code generators with four arguments, whatever they need)
"""Rows for the CPU kernels: the channels of one token and head, side by side in registers.

A row is a type of its own, an LLVM vector, so that it stays in registers and compiles to whatever
the machine is widest at. Everything here is called from compiled code only; an address is an
integer.
"""

from collections.abc import Sequence
from typing import Any, no_type_check

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, models, register_jitable, register_model

# Lets a product and a sum become one instruction where the machine has it.
_CONTRACT = ("contract",)


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
def zero_row(context: Any, number: Any, width: Any) -> Any:
    """A row of ``width`` zeros of the type ``number``, both known at compile time."""
    row = _Row(number.dtype, width.literal_value)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(context.get_value_type(row), None)

    return row(number, width), generate


@intrinsic
def load(context: Any, like: Any, address: Any) -> Any:
    """The row or number at ``address``, of the type of ``like``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[1], args[0].type.as_pointer())
        return builder.load(pointer, align=_alignment(like))

    return like(like, types.intp), generate


@intrinsic
def store(context: Any, address: Any, thing: Any) -> Any:
    """Write a row or a number to ``address``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], args[1].type.as_pointer())
        builder.store(args[1], pointer, align=_alignment(thing))
        return context.get_dummy_value()

    return types.void(types.intp, thing), generate


@intrinsic
def prefetch(context: Any, address: Any) -> Any:
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
def add_scaled(context: Any, total: Any, scale: Any, row: Any) -> Any:
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
def add_rows(context: Any, a: Any, b: Any) -> Any:
    """``a + b``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(*args)

    return a(a, a), generate


@intrinsic
def four_dots(context: Any, a: Any, b: Any, c: Any, d: Any, other: Any) -> Any:
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
def add_to_row(address, scale, row):
    """``scale * row`` on top of the row at ``address``."""
    store(address, add_scaled(load(row, address), scale, row))


@intrinsic
def bits_as_float(context: Any, bits: Any) -> Any:
    """The float32 of which these are the 32 bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate
