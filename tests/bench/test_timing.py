import time

import pytest

from saccade.bench import timing
from saccade.bench.timing import cpu_turn, cuda_turn, speedup, spread, take_turns


def test_a_spread_is_median_and_quartiles() -> None:
    found = spread([9.0, 1.0, 3.0, 5.0, 7.0])
    assert (found.low, found.median, found.high) == (3, 5, 7)


def test_one_measurement_has_no_spread() -> None:
    assert spread([2.0]).low == spread([2.0]).high == 2


def test_ratios_are_taken_within_rounds() -> None:
    # In the second round everything takes ten times as long: the ratio of medians would be 3.
    assert speedup([3.0, 40.0, 8.0], [1.0, 10.0, 2.0]).median == 4


def test_ratios_need_as_many_rounds_of_both() -> None:
    with pytest.raises(ValueError, match="zip"):
        speedup([1.0, 2.0], [1.0])


def test_everyone_takes_turns_and_the_order_alternates() -> None:
    log: list[str] = []
    turns = {name: lambda name=name: log.append(name) or 1.0 for name in "abc"}
    announced: list[str] = []
    seconds = take_turns(turns, 3, announced.append)
    assert log == announced == list("abccbaabc")
    assert seconds == {name: [1.0] * 3 for name in "abc"}


def test_a_turn_gives_seconds_of_one_call_and_moves_through_the_copies() -> None:
    copies: list[int] = []

    def call(copy: int) -> None:
        copies.append(copy)
        time.sleep(0.02)

    seconds = cpu_turn(call)()
    assert 0.02 <= seconds < 0.2
    assert copies == list(range(len(copies)))
    # One call to learn how long it takes, then as many as fill the turn.
    assert 2 <= len(copies) <= 4


def test_a_turn_on_a_gpu_takes_every_copy_and_gives_seconds_of_one_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies: list[int] = []
    asked: list[int] = []

    def seconds(run, repeats: int) -> float:
        asked.append(repeats)
        run()
        return 0.012

    monkeypatch.setattr(timing, "_gpu_seconds", seconds)
    turn = cuda_turn(copies.append, 3, graph=False)
    copies.clear()
    assert turn() == 0.004
    assert copies == [0, 1, 2]
    # Once to learn the time of a run, then as many runs as fill the turn.
    assert asked == [1, 5]
