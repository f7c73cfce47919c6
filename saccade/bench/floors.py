"""The least time that a case can take on this machine, by what was measured in the same run.

Two bounds, and the floor is the higher one:

- *memory*: every byte that has to be read or written once, at the speed of a plain copy. On a CPU
  the copy moves as many bytes as the plain form in the same direction, and so lies in the same
  caches; on a GPU it is larger than its cache.
- *rows*: the rows of ``value`` that the samples ask for, four each, all from the nearest cache.
  On a CPU at the speed of PyTorch's fastest sum of rows, ``embedding_bag``, over a table that fits
  the first-level cache; on a GPU at one 128-byte line per clock and multiprocessor.

Neither knows of arithmetic, of launches, or of rows that the nearest cache does not hold; nor
of the collisions of a GPU's atomic additions.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .contenders import LOCATIONS
from .op_cases import Inputs, OpShape

_TABLE_BYTES = 16 * 1024
_ROWS_PER_BAG, _BAGS = 64, 4096
_GPU_COPY_BYTES = 1 << 31
_LINE_BYTES = 128


@dataclass(frozen=True)
class Speeds:
    """What the machine does at its best; None where it was not found out."""

    copy: float
    """Bytes per second, read and written, of a plain copy."""
    rows: float | None
    """Bytes per second of rows read from the nearest cache; on a GPU, of whole lines."""


@dataclass(frozen=True)
class Floor:
    """What has to be done, and the time it takes at least."""

    moved_bytes: int
    row_bytes: int
    memory_seconds: float
    row_seconds: float | None

    @property
    def seconds(self) -> float:
        """The higher bound."""
        return max(self.memory_seconds, self.row_seconds or 0.0)


def measure_speeds(shape: OpShape, inputs: Inputs, touched_rows: int, backward: bool) -> Speeds:
    """Copy and read rows on the device of ``inputs``, for one direction; takes a moment."""
    value = inputs["value"]
    if value.is_cuda:
        return Speeds(_gpu_copy_speed(value.device), _gpu_line_speed(value.device))
    taken = {name: inputs[name] for name in LOCATIONS}
    num_bytes = moved_bytes(taken, inputs, backward, touched_rows)
    return Speeds(_cpu_copy_speed(num_bytes), _cpu_row_speed(shape.num_channels, value.dtype))


def floor(
    shape: OpShape,
    inputs: Inputs,
    arguments: Sequence[str],
    touched_rows: int,
    backward: bool,
    speeds: Speeds,
) -> Floor:
    """The floor of forward, or of forward and backward together.

    Args:
        shape: The sizes of the case.
        inputs: Everything by name, as the contender takes it.
        arguments: The names of what it takes.
        touched_rows: From ``count_touched_rows``.
        backward: Whether gradients are calculated too.
        speeds: From ``measure_speeds``, for the same direction.
    """
    taken = {name: inputs[name] for name in arguments}
    moved = moved_bytes(taken, inputs, backward, touched_rows)
    value = inputs["value"]
    row = shape.num_channels * value.itemsize
    rows = 4 * shape.num_samples
    if value.is_cuda:
        row = -(-row // _LINE_BYTES) * _LINE_BYTES
        # Read once more; the additions happen elsewhere, in the second-level cache.
        rows *= 2 if backward else 1
    elif backward:
        # Read once more for the slopes, and a row of the gradient read and written.
        rows *= 4
    row_seconds = None if speeds.rows is None else rows * row / speeds.rows
    return Floor(moved, rows * row, moved / speeds.copy, row_seconds)


def moved_bytes(taken: Inputs, inputs: Inputs, backward: bool, touched_rows: int) -> int:
    """Bytes that must be read or written once, if every cache were infinite."""
    value = taken["value"]
    out = inputs["grad_out"].nbytes
    samples = {name: tensor.nbytes for name, tensor in taken.items() if name != "value"}
    forward = touched_rows * value.shape[-1] * value.itemsize + sum(samples.values()) + out
    if not backward:
        return forward
    # Reads the same again, with the output's gradient instead of the output, and writes gradients;
    # that of value is written as a whole.
    samples.pop("reference_points", None)
    return 2 * forward + sum(samples.values()) + value.nbytes


def count_touched_rows(shape: OpShape, inputs: Inputs) -> int:
    """How many of the B*S*M rows of ``value`` any sample reads."""
    locations = inputs["sampling_locations"]
    num_images, _, num_heads = locations.shape[:3]
    place = torch.arange(num_images * num_heads, device=locations.device)
    place = place.view(num_images, 1, num_heads, 1)
    count = 0
    for level, (height, width) in enumerate(shape.levels):
        touched = torch.zeros(
            num_images * num_heads * height * width, dtype=torch.bool, device=locations.device
        )
        x, y = (locations[:, :, :, level] * locations.new_tensor([width, height]) - 0.5).unbind(-1)
        left, top = x.floor().long(), y.floor().long()
        for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            touched[((place * height + row) * width + column)[inside]] = True
        count += int(touched.count_nonzero())
    return count


def _best_seconds(run: Callable[[], object], repeats: int) -> float:
    run()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def _cpu_copy_speed(num_bytes: int) -> float:
    source = torch.ones(max(1, num_bytes // 8))
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best_seconds(lambda: target.copy_(source), 9)


def _cpu_row_speed(num_channels: int, dtype: torch.dtype) -> float:
    num_rows = max(1, _TABLE_BYTES // (num_channels * dtype.itemsize))
    table = torch.ones(num_rows, num_channels, dtype=dtype)
    random = torch.Generator().manual_seed(0)
    bags = torch.randint(num_rows, (_BAGS, _ROWS_PER_BAG), generator=random, dtype=torch.int32)
    seconds = _best_seconds(lambda: functional.embedding_bag(bags, table, mode="sum"), 25)
    return bags.numel() * num_channels * dtype.itemsize / seconds


def _gpu_copy_speed(device: torch.device) -> float:
    source = torch.ones(_GPU_COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> Tensor:
        target.copy_(source)
        torch.cuda.synchronize(device)
        return target

    return 2 * source.nbytes / _best_seconds(copy, 9)


def _gpu_line_speed(device: torch.device) -> float | None:
    """By the highest clock, which torch tells since 2.7; None before."""
    properties = torch.cuda.get_device_properties(device)
    kilohertz = getattr(properties, "clock_rate", None)
    if kilohertz is None:
        return None
    return _LINE_BYTES * kilohertz * 1000 * properties.multi_processor_count
