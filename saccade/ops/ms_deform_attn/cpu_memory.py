"""What the CPU kernels are handed: memory to write to, tables of the levels and of the queries."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Integers = np.ndarray[Any, np.dtype[np.int64]]

NUMBERS: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float64: np.float64}
"""The dtypes that the kernels calculate in, as numpy has them."""

_TILE = 8
_CACHE_LINE = 64
# Bytes from which numpy asks for huge pages.
_HUGE = 4 * 1024**2


def allocate(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """As torch.empty; large memory is numpy's, which asks Linux for huge pages.

    With small ones the first touch of each takes up to a fifth of the time of all.
    """
    if math.prod(shape) * dtype.itemsize < _HUGE:
        return torch.empty(tuple(shape), dtype=dtype)
    return torch.from_numpy(np.empty(tuple(shape), NUMBERS[dtype]))


class Scratch(NamedTuple):
    """Memory for one task, and where its first cache line begins."""

    memory: np.ndarray[Any, np.dtype[np.uint8]]
    address: int


def borrow(unused: list[Scratch], num_bytes: int) -> Scratch:
    """What another task has used before, or new: what is new costs a page fault a page."""
    try:
        return unused.pop()
    except IndexError:
        memory = np.empty(num_bytes + _CACHE_LINE, np.uint8)
        address = memory.ctypes.data
        return Scratch(memory, address + -address % _CACHE_LINE)


@functools.lru_cache(maxsize=64)
def level_table(
    shapes: tuple[tuple[int, int], ...], points: tuple[int, ...], step: int
) -> Integers:
    """Height, width, offset (``step`` bytes a token), first sample and points of each level."""
    rows = []
    token = sample = 0
    for (height, width), num_points in zip(shapes, points, strict=True):
        rows.append((height, width, token * step, sample, num_points))
        token += height * width
        sample += num_points
    return np.array(rows, np.int64)


@functools.lru_cache(maxsize=64)
def query_order(shapes: tuple[tuple[int, int], ...], num_queries: int) -> Integers:
    """In which order to work on the queries; it changes no output.

    As many queries as tokens are, in an encoder, the tokens: taken in square tiles of the map, they
    sample overlapping places while these are in the cache.
    """
    if num_queries != sum(height * width for height, width in shapes):
        return np.arange(num_queries)
    tiles = []
    token = 0
    for height, width in shapes:
        rows, columns = -(-height // _TILE), -(-width // _TILE)
        tokens = np.full((rows * _TILE, columns * _TILE), -1)
        tokens[:height, :width] = np.arange(token, token + height * width).reshape(height, width)
        level = tokens.reshape(rows, _TILE, columns, _TILE).swapaxes(1, 2).ravel()
        tiles.append(level[level >= 0])
        token += height * width
    return np.concatenate(tiles)
