"""How learning rates change over a run."""

from typing import Any, Literal

import pytest
from torch import nn

from saccade.recipe_config import OptimizerConfig, ScheduleConfig
from saccade.training.optimizer import build_optimizer
from saccade.training.schedule import learning_rate_factor, set_learning_rate


class Toy(nn.Module):
    """A backbone, a projection to sampling points, and another part: one group each."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(4, 4)
        self.reference_points = nn.Linear(4, 2)
        self.query = nn.Embedding(5, 4)


def test_step_schedule_drops_at_epoch_40_of_50() -> None:
    factors = [learning_rate_factor(epoch / 50, ScheduleConfig()) for epoch in range(51)]
    assert factors == [1.0] * 40 + [0.1] * 11


def test_cosine_schedule_falls_from_the_end_of_the_warmup() -> None:
    schedule = ScheduleConfig(kind="cosine", warmup=0.2, final_factor=0.1)
    factors = [learning_rate_factor(progress, schedule) for progress in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert factors == pytest.approx([0.0, 0.5, 1.0, 0.55, 0.1])


def test_flat_cosine_schedule_falls_from_its_knee() -> None:
    schedule = ScheduleConfig(kind="flat-cosine", warmup=0.1, flat_until=0.6, final_factor=0.2)
    moments = (0.0, 0.05, 0.1, 0.4, 0.6, 0.8, 1.0, 1.2)
    factors = [learning_rate_factor(progress, schedule) for progress in moments]
    assert factors == pytest.approx([0.0, 0.5, 1.0, 1.0, 1.0, 0.6, 0.2, 0.2])


def test_flat_cosine_schedule_without_a_fall_is_flat() -> None:
    schedule = ScheduleConfig(kind="flat-cosine", flat_until=1.0)
    assert [learning_rate_factor(progress, schedule) for progress in (0.0, 1.0, 1.5)] == [1.0] * 3


def test_warmup_precedes_the_step() -> None:
    schedule = ScheduleConfig(warmup=0.5, drop_at=0.8)
    factors = [learning_rate_factor(progress, schedule) for progress in (0.25, 0.5, 0.79, 0.8)]
    assert factors == [0.5, 1.0, 1.0, 0.1]


@pytest.mark.parametrize("kind", ["step", "cosine", "flat-cosine"])
def test_run_that_overstays_keeps_its_last_factor(
    kind: Literal["step", "cosine", "flat-cosine"],
) -> None:
    schedule = ScheduleConfig(kind=kind, final_factor=0.05)
    assert learning_rate_factor(1.3, schedule) == learning_rate_factor(1.0, schedule)


@pytest.mark.parametrize("progress", [-0.1, float("nan")])
def test_progress_that_is_no_fraction(progress: float) -> None:
    with pytest.raises(
        ValueError,
        match=f"progress is {progress}: expected the fraction of the run that has passed, 0 to 1",
    ):
        learning_rate_factor(progress, ScheduleConfig())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"warmup": 1.0}, r"schedule\.warmup is 1\.0: expected a fraction of the run, at least 0"),
        (
            {"kind": "flat-cosine", "warmup": 0.2, "flat_until": 0.1},
            r"schedule\.flat_until is 0\.1: expected a fraction .* the warm-up, 0\.2, to 1",
        ),
        ({"flat_until": 30.0}, r"schedule\.flat_until is 30\.0: expected a fraction of the run"),
        ({"drop_at": 40.0}, r"schedule\.drop_at is 40\.0: expected a fraction of the run, 0 to 1"),
    ],
)
def test_schedule_in_epochs_or_steps_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScheduleConfig(**values)


def test_factor_multiplies_the_first_rate_each_time_and_survives_resuming() -> None:
    optimizer = build_optimizer(Toy(), OptimizerConfig(learning_rate=1.0))
    set_learning_rate(optimizer, 0.5)
    resumed = build_optimizer(Toy(), OptimizerConfig(learning_rate=1.0))
    resumed.load_state_dict(optimizer.state_dict())
    set_learning_rate(resumed, 0.1)
    rates = {group["name"]: group["lr"] for group in resumed.param_groups}
    assert rates == pytest.approx({"other": 0.1, "backbone": 0.01, "sampling": 0.01})
