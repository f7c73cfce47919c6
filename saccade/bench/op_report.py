"""The benchmark's tables, for terminals of 80 columns and wider."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from .measure import BOTH, FORWARD, CaseTimes, Result
from .memory import CaseMemory
from .op_cases import OpCase
from .timing import Spread


def print_heading(
    machine: Mapping[str, str | int], versions: Mapping[str, str], console: Console
) -> None:
    """Print what everything is measured on."""
    place = f"{machine['processor']} ({machine['instructions']}), {machine['threads']} threads"
    if "gpu" in machine:
        place = f"{machine['gpu']}; {place}"
    packages = [f"{name} {versions[name]}" for name in ("python", "torch", "numba", "triton")]
    console.print(f"{place}\n{', '.join(packages)}", highlight=False)


def print_times(times: CaseTimes, console: Console) -> None:
    """Print a table, and below it what it cannot hold."""
    _print_case(times.case, times.dtype, console)
    table = new_table("median", "quartiles", "speed-up", "quartiles", "of floor")
    for direction in (FORWARD, BOTH):
        table.add_row(f"[bold]{direction}[/bold]")
        for result in times.results:
            if result.direction == direction:
                table.add_row(f"  {result.contender}", *_cells(result))
    console.print(table)
    for line in _notes(times):
        # What a contender said when it failed may look like markup.
        console.print(line, highlight=False, markup=False)


def print_memory(memory: CaseMemory, console: Console) -> None:
    """Print the peaks beside what they may be."""
    _print_case(memory.case, memory.dtype, console)
    table = new_table("forward", "forward + backward", first="peak extra memory")
    for result in memory.results:
        table.add_row(
            f"  {result.contender}", as_bytes(result.forward), as_bytes(result.forward_backward)
        )
    table.add_row(
        "  wanted at most", as_bytes(memory.forward_bar), as_bytes(memory.forward_backward_bar)
    )
    console.print(table)


def new_table(*columns: str, first: str = "") -> Table:
    """A table without lines; numbers are at the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _print_case(case: OpCase, dtype: str, console: Console) -> None:
    shape = case.shape
    levels = ", ".join(f"{height}x{width}" for height, width in shape.levels)
    images = "1 image" if shape.num_images == 1 else f"{shape.num_images} images"
    sizes = (
        f"{images}, {shape.queries:,} queries, {shape.num_heads} heads of {shape.num_channels} "
        f"channels, {shape.num_points} points on each of {levels}; {dtype}"
    )
    console.print(f"\n[bold]{case.name}[/bold], {case.sampling} sampling: {sizes}", highlight=False)


def _cells(result: Result) -> list[str]:
    if result.time is None:
        return ["-"] * 5
    ratio = ratios = ""
    if result.speedup is not None:
        ratio, ratios = f"[bold]{as_ratio(result.speedup.median)}[/bold]", as_range(result.speedup)
    share = "" if result.floor_share is None else f"{100 * result.floor_share:.0f} %"
    unit, scale = ("ms", 1e3) if result.time.median >= 1e-3 else ("µs", 1e6)
    median, low, high = (
        _three_digits(scale * x) for x in (result.time.median, result.time.low, result.time.high)
    )
    return [f"{median} {unit}", f"{low} - {high}", ratio, ratios, share]


def _notes(times: CaseTimes) -> list[str]:
    notes = []
    for result in times.results:
        if result.problem is not None:
            notes.append(f"{result.contender}, {result.direction}: no figure, {result.problem}")
        if result.fused_speedup is not None:
            gain = (
                f"{as_ratio(result.fused_speedup.median)} times ({as_range(result.fused_speedup)})"
            )
            notes.append(f"{result.contender}: {gain} as fast as unfused, {result.direction}")
    for direction in (FORWARD, BOTH):
        least = next(r.floor for r in times.results if r.direction == direction)
        bounds = f"{as_time(least.memory_seconds)} to move {as_bytes(least.moved_bytes)}"
        if least.row_seconds is not None:
            rows = f"{as_time(least.row_seconds)} to read {as_bytes(least.row_bytes)} of rows"
            bounds = f"{bounds}, {rows}"
        notes.append(f"floor, {direction}: {bounds}")
    differences = [r.difference for r in times.results if not r.problem and r.difference]
    if differences:
        notes.append(f"largest difference from grid_sample: {max(differences):.0e} of its norm")
    graphs = dict.fromkeys(result.contender for result in times.results if result.graph)
    if graphs:
        notes.append(f"replayed from CUDA graphs: {', '.join(graphs)}")
    return notes


def as_time(seconds: float) -> str:
    """In seconds, milliseconds or microseconds, with three digits.

    >>> as_time(1.234), as_time(0.0123)
    ('1.23 s', '12.3 ms')
    """
    if seconds >= 1:
        return f"{_three_digits(seconds)} s"
    unit, scale = ("ms", 1e3) if seconds >= 1e-3 else ("µs", 1e6)
    return f"{_three_digits(scale * seconds)} {unit}"


def as_ratio(value: float) -> str:
    """With three digits at most.

    >>> as_ratio(3.141)
    '3.14'
    """
    return f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def as_range(ratios: Spread) -> str:
    """The quartiles of ratios."""
    return f"{as_ratio(ratios.low)} - {as_ratio(ratios.high)}"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else as_ratio(value)


def as_bytes(count: int) -> str:
    """In a unit that leaves three digits.

    >>> as_bytes(1_250_000)
    '1.25 MB'
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{_three_digits(count / size)} {unit}"
    return f"{_three_digits(count / 1e3)} kB"
