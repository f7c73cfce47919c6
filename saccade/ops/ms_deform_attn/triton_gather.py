"""The gradient of value without atomic additions; shape legend in ``triton_sampling``.

All samples are sorted by the cell they lie in, then each token gathers from its four cells: who
adds what in which order depends on the arguments only.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_launch import Problem, ceil_div, num_cells, run_kernel
from .triton_sampling import (
    FIRST_CELL,
    FIRST_TOKEN,
    WIDTH,
    level_field,
    level_of,
    program_place,
)

# Tokens of a program, and the samples of each that it adds at a time: one a thread. The order of
# the sums depends on the latter.
_TOKENS, _STEP = 4, 16


@triton.jit(do_not_specialize=["num_cells", "num_tokens", "num_queries", "num_tiles"])
@no_type_check
def _gather_kernel(
    grad_out,  # [b, q, m, d]
    samples,  # numbers of the samples [b, m, q, k], sorted by cell
    shares,  # [c, b, m, q, k]
    first_of_cell,  # [cell] where in samples those of a cell begin; one more for the end
    levels,
    grad_value,  # [b, s, m, d]
    num_cells,
    num_tokens,
    num_queries,
    num_tiles,
    M: tl.constexpr,
    D: tl.constexpr,
    L: tl.constexpr,
    K: tl.constexpr,
    TOKENS: tl.constexpr,
    STEP: tl.constexpr,
    CHANNELS: tl.constexpr,
    INDEX: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    tile, head, image = program_place(num_tiles, M)
    plane = image * M + head
    corner = (tl.num_programs(0) // num_tiles).to(tl.int64) * num_queries * K
    # The tokens of the coarse levels, which most samples read, come first.
    token = (num_tiles - 1 - tile) * TOKENS + tl.arange(0, TOKENS)
    exists = token < num_tokens
    level = level_of(levels, token, FIRST_TOKEN, L)
    width = level_field(levels, level, WIDTH)
    local = token - level_field(levels, level, FIRST_TOKEN)
    cell = local // width * (width + 1) + local % width + level_field(levels, level, FIRST_CELL)
    # Cells side by side are neighbours in the order: one range above the token, one below.
    above = first_of_cell + plane * num_cells + cell
    below = above + width + 1
    above_left = tl.load(above, exists, 0)
    above_right = tl.load(above + 1, exists, 0)
    num_above = tl.load(above + 2, exists, 0) - above_left
    below_left = tl.load(below, exists, 0)
    below_right = tl.load(below + 1, exists, 0)
    num_samples = tl.load(below + 2, exists, 0) - below_left + num_above
    most_samples = tl.max(num_samples, 0)
    grad_out += image * num_queries * (M * D)
    grad_value += image * num_tokens * (M * D)

    for first_channel in range(0, D, CHANNELS):
        channel = first_channel + tl.arange(0, CHANNELS)
        total = tl.zeros([TOKENS, STEP, CHANNELS], COMPUTE)
        for first in range(0, most_samples, STEP):
            number = first + tl.arange(0, STEP)[None, :]
            live = number < num_samples[:, None]
            is_above = number < num_above[:, None]
            at = tl.where(is_above, above_left[:, None], (below_left - num_above)[:, None]) + number
            is_left = at < tl.where(is_above, above_right[:, None], below_right[:, None])
            sample = tl.load(samples + at, live, 0)
            # The token is the lower right corner of the cell to its upper left, and so on.
            which = tl.where(is_above, 2, 0) + tl.where(is_left, 1, 0)
            share = tl.load(shares + which * corner + sample, live, 0)
            query = (sample - plane * num_queries * K).to(INDEX) // K
            rows = grad_out + channel[None, None, :] + ((query * M + head) * D)[:, :, None]
            mask = live[:, :, None] & (channel < D)[None, None, :]
            total += share[:, :, None] * tl.load(rows, mask, 0).to(COMPUTE)
        at_row = grad_value + ((token.to(INDEX) * M + head) * D)[:, None] + channel[None, :]
        mask = exists[:, None] & (channel < D)[None, :]
        tl.store(at_row, tl.sum(total, 1).to(grad_value.dtype.element_ty), mask)


class SampleOrder:
    """What the backward kernel notes about the samples (nothing if ``atomic``), and its use."""

    def __init__(self, problem: Problem, atomic: bool) -> None:
        weights = problem.weights
        num_images, num_queries, num_heads, num_samples = weights.shape
        self.problem = problem
        self.num_cells = sum(num_cells(problem.shapes))
        """Of all levels."""
        self.num_planes = num_images * num_heads
        fits = self.num_planes * self.num_cells < 2**31
        size = (0,) if atomic else (num_images, num_heads, num_queries, num_samples)
        self.cells = weights.new_empty(size, dtype=torch.int32 if fits else torch.int64)
        """The cell of each sample, counted over images and heads; one more for no cell at all."""
        self.shares = weights.new_empty((4, *size), dtype=problem.compute)
        """The weights of the corners of its cell, attention included."""

    def gather(self, grad_out: Tensor) -> Tensor:
        """The gradient of value."""
        problem, value = self.problem, self.problem.value
        num_tokens, num_heads, num_channels = value.shape[1:]
        cells, samples = torch.sort(self.cells.flatten(), stable=True)
        every_cell = torch.arange(
            self.num_planes * self.num_cells + 1, dtype=cells.dtype, device=cells.device
        )
        grad_value = torch.empty_like(value)
        num_tiles = ceil_div(num_tokens, _TOKENS)
        run_kernel(
            _gather_kernel,
            self.num_planes * num_tiles,
            grad_out,
            samples,
            self.shares,
            torch.searchsorted(cells, every_cell),
            problem.levels(),
            grad_value,
            self.num_cells,
            num_tokens,
            problem.num_queries,
            num_tiles,
            M=num_heads,
            D=num_channels,
            L=len(problem.shapes),
            K=problem.weights.shape[3],
            TOKENS=_TOKENS,
            STEP=_STEP,
            CHANNELS=problem.tile.channels,
            INDEX=problem.index_type,
            COMPUTE=problem.compute_type,
            num_warps=_TOKENS * _STEP // 32,
        )
        return grad_value
