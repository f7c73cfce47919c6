import os
from collections.abc import Iterator

import pytest

from saccade.training import waiting
from saccade.training.waiting import Waiting


class Clock:
    """Stands still unless it is told how much time passes."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(waiting, "time", clock)
    return clock


def run(clock: Clock, seconds_of_reading: list[float], seconds_of_step: float) -> Waiting:
    """A run whose first step compiles, which is not counted."""

    def loader() -> Iterator[int]:
        for index, seconds in enumerate(seconds_of_reading):
            clock.now += seconds
            yield index

    watched = Waiting(num_workers=2)
    for index in watched.timed(loader()):
        clock.now += seconds_of_step
        watched.count(seconds_of_reading[index] + seconds_of_step if index else 0.0)
    return watched


def test_the_share_is_the_time_until_the_loader_hands_over(clock: Clock) -> None:
    watched = run(clock, [50.0, 1.0, 0.0, 2.0], 3.0)
    assert watched.waited == pytest.approx(3.0)
    assert watched.share == pytest.approx(3 / 12)


def test_nothing_has_been_waited_for_before_the_first_step() -> None:
    assert Waiting(2).share == 0


def test_a_long_wait_is_told_once_with_the_number_of_workers(clock: Clock) -> None:
    watched = run(clock, [0.0] + [1.0] * 20, 3.0)
    said = watched.warning()
    assert said is not None
    assert "waits 25 % of its time for images" in said
    assert f"by 2 processes (num_workers) beside each of training, on {os.cpu_count()}" in said
    assert watched.warning() is None


@pytest.mark.parametrize(
    ("reading", "step"),
    [([0.0] + [0.3] * 20, 3.0), ([0.0] + [1.0] * 5, 1.0)],
    ids=["a short wait", "the first seconds"],
)
def test_what_is_usual_is_not_warned_of(clock: Clock, reading: list[float], step: float) -> None:
    assert run(clock, reading, step).warning() is None
