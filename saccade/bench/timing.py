"""Timing contenders in turns, so that a machine whose clock wanders slows them all."""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

Call = Callable[[int], object]
"""One calculation; the number says which copy of the inputs to take."""
Turn = Callable[[], float]
"""Times some calls; gives the seconds of one."""

# One turn lasts this long at least, or the clock and its reading would be measured.
_SECONDS_PER_TURN = 0.05


@dataclass(frozen=True)
class Spread:
    """The middle half of some measurements."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""


def spread(measurements: Sequence[float]) -> Spread:
    """Median and quartiles.

    >>> spread([5.0, 1.0, 2.0, 4.0, 3.0])
    Spread(median=3.0, low=2.0, high=4.0)
    """
    if len(measurements) == 1:
        return Spread(measurements[0], measurements[0], measurements[0])
    low, median, high = statistics.quantiles(measurements, n=4, method="inclusive")
    return Spread(median, low, high)


def speedup(slow: Sequence[float], fast: Sequence[float]) -> Spread:
    """How many times as fast: of the ratios within each round, not the ratio of two medians.

    >>> speedup([4.0, 8.0, 6.0], [1.0, 2.0, 2.0]).median
    4.0
    """
    return spread([a / b for a, b in zip(slow, fast, strict=True)])


def take_turns(
    turns: Mapping[str, Turn], rounds: int, advance: Callable[[str], None]
) -> dict[str, list[float]]:
    """Seconds of every contender in every round.

    Every other round runs backwards, so that each is as often before as after any other.

    Args:
        turns: What to time, by name.
        rounds: How often.
        advance: Called with the name of whose turn begins.
    """
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds):
        names: Iterable[str] = reversed(list(turns)) if number % 2 else turns
        for name in names:
            advance(name)
            seconds[name].append(turns[name]())
    return seconds


def cpu_turn(call: Call) -> Turn:
    """A turn on the wall clock, as many calls as fill it; consecutive calls take other copies."""
    copies = itertools.count()
    calls = _calls_per_turn(_seconds(lambda: call(next(copies))))

    def turn() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            call(next(copies))
        return (time.perf_counter() - start) / calls

    return turn


def cuda_turn(call: Call, num_copies: int, graph: bool) -> Turn:
    """A turn between two events on the GPU, which takes all copies equally often.

    Args:
        call: What to time.
        num_copies: Of the inputs; more than the cache holds, or the cache would be measured.
        graph: Replay the calls from a CUDA graph, so that launching them costs nothing.

    Raises:
        RuntimeError: If the calls cannot be captured.
    """

    def run_all() -> None:
        for copy in range(num_copies):
            call(copy)

    run = _captured(run_all) if graph else run_all
    run()
    repeats = _calls_per_turn(_gpu_seconds(run, 1))
    return lambda: _gpu_seconds(run, repeats) / num_copies


def _calls_per_turn(seconds: float) -> int:
    return max(1, math.ceil(_SECONDS_PER_TURN / max(seconds, 1e-6)))


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _gpu_seconds(run: Callable[[], object], repeats: int) -> float:
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / repeats


def _captured(run: Callable[[], None]) -> Callable[[], None]:
    """The same work, replayed from a CUDA graph."""
    # A run on a stream of its own first, as torch asks for: what is initialised late must not be
    # captured.
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay
