import pytest
import torch

from saccade.evaluation import speed
from saccade.evaluation.speed import measure_speed
from saccade.structures import Batch


class Clock:
    """Time that passes only when a detector of known speed runs."""

    def __init__(self, *durations: float) -> None:
        self.now = 0.0
        self.durations = list(durations)
        self.grad_enabled: list[bool] = []

    def perf_counter(self) -> float:
        return self.now

    def predict(self, batch: Batch) -> None:
        self.grad_enabled.append(torch.is_grad_enabled())
        self.now += self.durations.pop(0)


@pytest.fixture
def batch() -> Batch:
    return Batch.from_images([torch.zeros(3, 8, 8)] * 2)


def test_warm_runs_do_not_count_and_the_median_does(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(50.0, 40.0, 1.0, 9.0, 2.0, 3.0)
    monkeypatch.setattr(speed, "time", clock)
    seen = measure_speed(clock.predict, batch, seconds=14.0)
    assert (seen.num_runs, seen.seconds, seen.quickest) == (4, 2.5, 1.0)
    assert seen.images_per_second == pytest.approx(2 / 2.5)
    assert seen.peak_mib is None
    assert clock.grad_enabled == [False] * 6


def test_a_slow_detector_still_runs_three_times(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(7.0, 5.0, 5.0, 5.0)
    monkeypatch.setattr(speed, "time", clock)
    assert measure_speed(clock.predict, batch, seconds=1.0, num_warm=1).num_runs == 3


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_no_time_to_measure_is_refused(batch: Batch, seconds: float) -> None:
    with pytest.raises(ValueError, match="expected how long to measure, such as 5"):
        measure_speed(lambda batch: None, batch, seconds=seconds)
