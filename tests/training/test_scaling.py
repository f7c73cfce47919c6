"""float16: the scale of the loss, and the steps that are left out to find it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saccade.run import train
from saccade.run_config import LaunchConfig, RunConfig
from saccade.training import loss_model
from saccade.training.checkpoint import load_checkpoint
from saccade.training.scaling import LossScaler
from saccade.training.step import Stepper


def scaled_step(scaler: LossScaler, gradient: float) -> tuple[bool, Tensor]:
    weight = torch.zeros(2, requires_grad=True)
    scaler.scale((weight * gradient).sum()).backward()
    scaler.unscale(torch.optim.SGD([weight]))
    assert weight.grad is not None
    if weight.grad.isfinite().all():
        scaler.stepped()
        return False, weight.grad
    return scaler.overflowed(), weight.grad


def test_gradients_come_back_in_their_own_size() -> None:
    scaler = LossScaler("cpu", enabled=True)
    overflowed, gradient = scaled_step(scaler, 3.0)
    assert not overflowed
    assert gradient.tolist() == [3.0, 3.0]


def test_the_scale_falls_until_it_is_no_longer_to_blame() -> None:
    scaler = LossScaler("cpu", enabled=True)
    scales = [scaler.factor]
    while scaled_step(scaler, float("inf"))[0]:
        scales.append(scaler.factor)
    assert scales == [2.0**power for power in range(16, -1, -1)]


def test_without_float16_nothing_overflows() -> None:
    scaler = LossScaler("cpu", enabled=False)
    assert scaled_step(scaler, float("inf")) == (False, pytest.approx([float("inf")] * 2))
    assert scaler.state_dict() == {}


@pytest.fixture
def half(run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """Three epochs of two steps with a scale.

    In float32, which is faster on a CPU and overflows only where a test wants it.
    """
    monkeypatch.setattr(loss_model, "_AUTOCAST", {})
    return replace(run, epochs=3, num_evaluations=1, launch=LaunchConfig(precision="fp16"))


def test_a_step_that_overflows_is_left_out_and_the_run_goes_on(
    half: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a step of a run, and nothing that `on_nonfinite` would stop; the scale is saved."""
    overflows = iter([True, False, True, False, False, False])
    original = Stepper._forward

    def forward(self: Stepper, *arguments: Any) -> Any:
        losses, total = original(self, *arguments)
        if next(overflows):
            total.register_hook(lambda gradient: gradient * float("inf"))
        return losses, total

    monkeypatch.setattr(Stepper, "_forward", forward)
    train(replace(half, ema=0.9), tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run" / "last.ckpt")
    assert (checkpoint.progress.step, checkpoint.progress.skipped) == (4, 0)
    assert checkpoint.average is not None
    assert checkpoint.average["updates"] == 4
    assert checkpoint.scaler is not None
    assert checkpoint.scaler["scale"] == 2.0**14
    for value in checkpoint.model.values():
        assert value.isfinite().all()


def test_gradients_that_overflow_at_every_scale_stop_the_run(
    half: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saccade.training.scaling.LEAST_SCALE", 2.0**15)
    original = Stepper._forward

    def forward(self: Stepper, *arguments: Any) -> Any:
        losses, total = original(self, *arguments)
        total.register_hook(lambda gradient: gradient * float("inf"))
        return losses, total

    monkeypatch.setattr(Stepper, "_forward", forward)
    with pytest.raises(
        ValueError, match="the gradients are not finite although the loss is, at st"
    ):
        train(half, tmp_path / "run")


def test_the_scale_goes_on_where_it_was(half: RunConfig, tmp_path: Path) -> None:
    train(replace(half, epochs=1), tmp_path / "run")
    file = tmp_path / "run" / "last.ckpt"
    checkpoint = load_checkpoint(file)
    assert checkpoint.scaler is not None
    assert checkpoint.scaler["_growth_tracker"] == 2
    changed = checkpoint.scaler | {"scale": 8.0}
    progress = vars(checkpoint.progress)
    torch.save(checkpoint._asdict() | {"progress": progress, "scaler": changed}, file)
    train(replace(half, epochs=2), tmp_path / "run", resume=True)
    scaler = load_checkpoint(file).scaler
    assert scaler is not None
    assert (scaler["scale"], scaler["_growth_tracker"]) == (8.0, 4)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r'launch\.precision is "half": expected 32, bf16 or fp16'):
        LaunchConfig(precision="half")  # type: ignore[arg-type]
