"""How the Triton kernels are launched: their inputs, tables, tile sizes and index width."""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import compute_dtype

Shapes = tuple[tuple[int, int], ...]

_COMPUTE = {torch.float32: tl.float32, torch.float64: tl.float64}
# With fewer queries (images and heads counted) there are too few programs for a large GPU.
_MANY_QUERIES = 1 << 16
# Of a row, read at a time: what the nearest cache delivers in one cycle.
_LINE_BYTES = 128
# Loads of a thread for one corner; more take more registers than there are.
_MOST_LOADS = 8


@dataclass(frozen=True, slots=True)
class Tile:
    """What a program works on at a time: ``queries`` x ``points`` samples, ``channels`` of each."""

    queries: int
    points: int
    channels: int
    warps: int


def choose_tile(num_channels: int, itemsize: int, most_points: int, num_queries: int) -> Tile:
    """The tile for heads so wide, numbers of so many bytes and, in all, so many queries.

    A sample per thread, where registers allow it: the compiler then has each thread place its own
    sample and hands the result to the lanes that read the rows, instead of having all of those
    repeat the work. Four warps share the rows that neighbouring queries read through the nearest
    cache. Counted in machine code, not yet timed.
    """
    channels = min(_LINE_BYTES // itemsize, triton.next_power_of_2(num_channels))
    piece = math.gcd(num_channels * itemsize, 16)
    loads = channels * itemsize // piece
    warps = 4 if num_queries >= _MANY_QUERIES else 1
    samples = 32 * warps * _MOST_LOADS // max(_MOST_LOADS, loads)
    points = min(4, triton.next_power_of_2(most_points))
    return Tile(samples // points, points, channels, warps)


def ceil_div(a: int, b: int) -> int:
    """The quotient, rounded up."""
    return -(-a // b)


def run_kernel(kernel: Any, num_programs: int, *arguments: Tensor | int, **constants: Any) -> None:
    """Run on the device of the first argument, whatever the current one."""
    with torch.cuda.device_of(arguments[0]):  # type: ignore[no-untyped-call]
        # Said although it is the default, since a later Triton has another.
        kernel[(num_programs,)](*arguments, **constants, enable_fp_fusion=True)


def _num_patches(shapes: Shapes, patch: tuple[int, int]) -> list[int]:
    return [ceil_div(height, patch[0]) * ceil_div(width, patch[1]) for height, width in shapes]


def num_cells(shapes: Shapes) -> list[int]:
    """Cells of each level, those with corners outside of the map included."""
    return [(height + 1) * (width + 1) for height, width in shapes]


# Without bound, since captured CUDA graphs keep the addresses; a table is some 200 bytes.
@functools.cache
def level_table(
    shapes: Shapes, points: tuple[int, ...], patch: tuple[int, int], device: torch.device
) -> Tensor:
    """[L, 7] int32: height, width, first token, points, first sample, first cell, first patch.

    The columns are named in triton_sampling. Reaches the device once, in the first call.
    """
    counts = (
        [height * width for height, width in shapes],
        points,
        num_cells(shapes),
        _num_patches(shapes, patch),
    )
    tokens, samples, cells, patches = (
        itertools.accumulate(numbers, initial=0) for numbers in counts
    )
    heights, widths = zip(*shapes, strict=True)
    # The last sum of each is the total.
    rows = zip(heights, widths, tokens, points, samples, cells, patches, strict=False)
    return torch.tensor(list(rows), dtype=torch.int32, device=device)


@dataclass(frozen=True, slots=True)
class Problem:
    """The arguments of either form, as both kernels take them."""

    value: Tensor
    places: Tensor
    """[B, Q, M, K, 2] locations (plain form) or offsets (fused form)."""
    weights: Tensor
    """[B, Q, M, K] attention weights or logits."""
    references: Tensor
    """[B, Q, L, 2 or 4]; in the plain form [B, Q, L, 0]."""
    shapes: Shapes
    points: tuple[int, ...]
    box_scale: float
    wide: bool

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Value, places, weights and references."""
        return self.value, self.places, self.weights, self.references

    @property
    def fused(self) -> bool:
        """Whether places are offsets from references, weights logits."""
        return self.references.shape[3] > 0

    @property
    def num_queries(self) -> int:
        """Of each image."""
        return self.weights.shape[1]

    @property
    def empty(self) -> bool:
        """There is nothing to sum: outputs and gradients are zero, if they have elements."""
        return self.weights.numel() == 0 or self.value.numel() == 0

    @property
    def compute(self) -> torch.dtype:
        """What is calculated in."""
        return compute_dtype(*self.tensors)

    @property
    def compute_type(self) -> Any:
        """The same for kernels."""
        return _COMPUTE[self.compute]

    @property
    def tile(self) -> Tile:
        """What a program works on at a time."""
        rows = self.weights.numel() // self.weights.shape[3]
        return choose_tile(self.value.shape[3], self.value.element_size(), max(self.points), rows)

    @property
    def patch(self) -> tuple[int, int]:
        """(height, width) of the patch of tokens that a tile of queries is, about a square."""
        queries = self.tile.queries
        width = 1 << (queries.bit_length() // 2)
        return queries // width, width

    @property
    def patched(self) -> bool:
        """Queries that are as many as the tokens are taken to be the tokens."""
        return self.num_queries == self.value.shape[1]

    @property
    def index_type(self) -> Any:
        """Wide enough to count the numbers of one image in each tensor."""
        per_image = (x[0].numel() for x in (self.value, self.places))
        most = max(*per_image, self.num_queries * self.value[0, 0].numel())
        return tl.int64 if self.wide or most >= 2**31 else tl.int32

    def levels(self) -> Tensor:
        """The table of levels."""
        return level_table(self.shapes, self.points, self.patch, self.value.device)

    def launch(self, kernel: Any, *arguments: Tensor | int, **constants: Any) -> None:
        """Run ``kernel`` on all (image, head, tile of queries), with further arguments."""
        num_images, num_tokens, num_heads, num_channels = self.value.shape
        num_samples = self.weights.shape[3]
        tile = self.tile
        if self.patched:
            num_tiles = sum(_num_patches(self.shapes, self.patch))
        else:
            num_tiles = ceil_div(self.num_queries, tile.queries)
        run_kernel(
            kernel,
            num_images * num_heads * num_tiles,
            *self.tensors,
            self.levels(),
            *arguments,
            num_tokens,
            self.num_queries,
            num_tiles,
            REFERENCE=self.references.shape[3],
            BOX_SCALE=self.box_scale,
            M=num_heads,
            D=num_channels,
            L=len(self.shapes),
            K=num_samples,
            PADDED_K=triton.next_power_of_2(num_samples),
            QUERIES=tile.queries,
            POINTS=tile.points,
            CHANNELS=tile.channels,
            PATCH_WIDTH=self.patch[1] if self.patched else 0,
            INDEX=self.index_type,
            COMPUTE=self.compute_type,
            num_warps=tile.warps,
            **constants,
        )


def _prepared(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous()


def plain_problem(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    wide: bool,
) -> Problem:
    """The plain form: what is left to do is to read and sum."""
    num_images, num_queries, _, num_levels, num_points = attention_weights.shape
    return Problem(
        _prepared(value),
        _prepared(sampling_locations).flatten(3, 4),
        _prepared(attention_weights).flatten(3),
        sampling_locations.new_empty(num_images, num_queries, num_levels, 0),
        tuple(spatial_shapes),
        (num_points,) * num_levels,
        0.0,
        wide,
    )


def fused_problem(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    points_per_level: Sequence[int],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    box_scale: float,
    wide: bool,
) -> Problem:
    """The fused form: locations and attention are calculated on the way."""
    return Problem(
        _prepared(value),
        _prepared(sampling_offsets),
        _prepared(attention_logits),
        _prepared(reference_points),
        tuple(spatial_shapes),
        tuple(points_per_level),
        box_scale,
        wide,
    )
