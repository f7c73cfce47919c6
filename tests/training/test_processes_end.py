"""Processes of one run end together, and one of them says why."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from saccade.data import Split
from saccade.run_config import LaunchConfig, RunConfig
from saccade.split_evaluation import SplitEvaluation
from saccade.training.checkpoint import load_checkpoint
from saccade.training.step import Stepper
from tests.training.processes import at_batch, train_in

NO_OBJECTS: list[dict[str, Any]] = []


@pytest.fixture
def two(run: RunConfig, write_coco: Callable[..., Split]) -> RunConfig:
    """An epoch of three steps, an image in each of two processes, none of them with objects."""
    write_coco(dict.fromkeys(range(1, 7), (48, 64)), NO_OBJECTS)
    launch = LaunchConfig(accelerator="cpu")
    return replace(run, launch=launch, batch_size=1, epochs=1, on_nonfinite="stop")


def raise_runtime_error() -> None:
    raise RuntimeError("no such thing")


def raise_value_error() -> None:
    raise ValueError("images/3.png is not an image")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def terminate_twice() -> None:
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)


def spoil_second_batch(rank: int) -> None:
    """The images of one process are not finite."""
    original = Stepper.take
    taken = 0

    def take(self: Stepper, moment: Any, *rest: Any) -> bool:
        nonlocal taken
        taken += 1
        if taken == 2 and rank == 1:
            batch = replace(moment.batch, images=moment.batch.images * torch.nan)
            moment = replace(moment, batch=batch)
        return original(self, moment, *rest)

    Stepper.take = take  # type: ignore[method-assign]


def spoil_second_gradient(rank: int) -> None:
    original = Stepper._note
    taken = 0

    def note(self: Stepper, *arguments: Any) -> None:
        nonlocal taken
        taken += 1
        if taken == 2 and rank == 1:
            weight = next(each for each in self.losses_of.parameters() if each.grad is not None)
            with torch.no_grad():
                weight.grad *= torch.nan
        original(self, *arguments)

    Stepper._note = note  # type: ignore[method-assign]


@pytest.mark.slow
def test_one_process_with_a_loss_that_is_not_finite_ends_all(
    two: RunConfig, tmp_path: Path
) -> None:
    end = train_in(2, two, tmp_path / "run", act=spoil_second_batch)
    assert end.statuses == [2, 2]
    (message,) = end.messages("saccade train: ")
    assert "the loss is not finite at step 2 (epoch 1, batch 2): in process 1, " in message
    assert "the images themselves are not (images here: " in message
    assert "Traceback" not in end.said


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_all_processes_skip_a_step_that_is_not_finite_in_one(
    two: RunConfig, tmp_path: Path, strategy: Literal["ddp", "fsdp"]
) -> None:
    launch = replace(two.launch, strategy=strategy)
    config = replace(two, on_nonfinite="skip", launch=launch)
    end = train_in(2, config, tmp_path / "run", act=spoil_second_batch)
    assert end.statuses == [0, 0]
    (warning,) = end.messages("warning: the loss is not finite")
    assert "in process 1, the images themselves are not" in warning
    assert end.weights[0] == end.weights[1] != ""
    progress = load_checkpoint(tmp_path / "run" / "last.ckpt").progress
    assert (progress.step, progress.skipped) == (2, 1)


@pytest.mark.slow
def test_gradients_that_are_not_finite_in_one_process_are_skipped_where_weights_are_divided(
    two: RunConfig, tmp_path: Path
) -> None:
    launch = replace(two.launch, strategy="fsdp")
    config = replace(two, on_nonfinite="skip", launch=launch)
    end = train_in(2, config, tmp_path / "run", act=spoil_second_gradient)
    assert end.statuses == [0, 0]
    (warning,) = end.messages("warning: the gradients are not finite although the loss is, at")
    assert "of which module is not told where launch.strategy is fsdp" in warning
    assert load_checkpoint(tmp_path / "run" / "last.ckpt").progress.skipped == 1
    assert end.weights[0] == end.weights[1] != ""


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_image_that_one_process_cannot_read_ends_all(
    two: RunConfig, tmp_path: Path, rank: int
) -> None:
    act = partial(at_batch, number=2, ranks=[rank], do=raise_value_error)
    end = train_in(2, two, tmp_path / "run", act=act)
    assert end.statuses == [2, 2]
    assert end.messages("saccade train: ") == ["saccade train: images/3.png is not an image"]
    assert "Traceback" not in end.said


@pytest.mark.slow
def test_an_error_of_ours_in_one_process_is_shown_once(two: RunConfig, tmp_path: Path) -> None:
    act = partial(at_batch, number=2, ranks=[1], do=raise_runtime_error)
    end = train_in(2, two, tmp_path / "run", act=act)
    assert end.statuses == [2, 1]
    assert end.said.count("Traceback") == 1
    assert len(end.messages("RuntimeError: no such thing")) == 1
    assert not end.messages("saccade train: ")


@pytest.mark.slow
def test_a_dataset_that_no_process_can_use_is_told_once(two: RunConfig, tmp_path: Path) -> None:
    end = train_in(2, replace(two, data=str(tmp_path / "nowhere")), tmp_path / "run")
    assert end.statuses == [2, 2]
    assert len(end.messages("saccade train: ")) == 1


@pytest.mark.slow
def test_a_process_that_is_killed_ends_all_with_a_sentence(two: RunConfig, tmp_path: Path) -> None:
    end = train_in(2, two, tmp_path / "run", act=partial(at_batch, number=2, ranks=[1], do=kill))
    assert end.statuses == [2, -signal.SIGKILL]
    (message,) = end.messages("saccade train: ")
    assert "the connection to another process of the run is lost" in message
    assert "Traceback" not in end.said


@pytest.mark.slow
def test_sigterm_to_all_processes_saves_once_however_often_it_comes(
    two: RunConfig, tmp_path: Path
) -> None:
    act = partial(at_batch, number=2, ranks=[0, 1], do=terminate_twice)
    end = train_in(2, two, tmp_path / "run", act=act)
    assert end.statuses == [143, 143]
    assert len(end.messages("saccade train: stopped by SIGTERM; everything is saved")) == 1
    assert load_checkpoint(tmp_path / "run" / "last.ckpt").progress.step == 2


@pytest.mark.slow
def test_sigterm_during_an_evaluation_ends_all_processes(two: RunConfig, tmp_path: Path) -> None:
    end = train_in(2, two, tmp_path / "run", act=terminate_in_evaluation)
    assert end.statuses == [143, 143]
    assert len(end.messages("saccade train: stopped by SIGTERM; everything is saved")) == 1
    again = train_in(2, two, tmp_path / "run", "--auto-resume")
    assert again.statuses == [0, 0]
    assert (tmp_path / "run" / "last").exists()


def terminate_in_evaluation(rank: int) -> None:
    original = SplitEvaluation._predict

    def predict(self: Any, batch: Any) -> Any:
        if rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch)

    SplitEvaluation._predict = predict  # type: ignore[method-assign]
