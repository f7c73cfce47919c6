"""Several processes take the steps of one."""

import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from saccade.data import Split
from saccade.run_config import LaunchConfig, RunConfig
from saccade.training.checkpoint import load_checkpoint
from saccade.training.records import EvaluationRecords
from tests.training.processes import at_batch, train_in

SIZES = dict.fromkeys(range(1, 8), (48, 64))
# The last images have none.
OBJECTS = [
    {"image_id": image, "category_id": 1 + image % 2, "bbox": [4 * k, 8, 20, 24], "area": 480}
    for image in range(1, 5)
    for k in range(image)
]


@pytest.fixture
def noisy(run: RunConfig, write_coco: Callable[..., Split]) -> RunConfig:
    """Three epochs on seven images, some without objects; averaged weights are evaluated."""
    write_coco(SIZES, OBJECTS)
    return replace(
        run,
        augmentation=replace(run.augmentation, short_sides=(64,), max_side=96),
        launch=LaunchConfig(accelerator="cpu"),
        batch_size=4,
        epochs=3,
        num_evaluations=1,
        ema=0.9,
    )


@pytest.fixture
def plain(noisy: RunConfig) -> RunConfig:
    """Nothing that depends on which images a batch has: no noise, no norm that counts along, no
    padding."""
    model = replace(
        noisy.model,
        denoising=replace(noisy.model.denoising, num_queries=0),
        backbone=replace(noisy.model.backbone, norm="frozen"),
    )
    return replace(noisy, model=model)


def in_parts(
    config: RunConfig, count: int, strategy: Literal["auto", "ddp", "fsdp"] = "auto"
) -> RunConfig:
    """The same run with the batch divided among processes."""
    launch = replace(config.launch, strategy=strategy)
    return replace(config, batch_size=config.batch_size // count, launch=launch)


def assert_close_runs(one: Path, other: Path) -> None:
    for place in ("best", "last"):
        assert_close(
            *(load_file(run / place / "model.safetensors") for run in (one, other)),
            rtol=0,
            atol=1e-4,
        )
    records = [EvaluationRecords(run / "evaluations.jsonl").read() for run in (one, other)]
    for record in (*records[0], *records[1]):
        del record["minutes"]
    assert records[0] == records[1]
    checkpoints = [load_checkpoint(run / "last.ckpt") for run in (one, other)]
    momenta = [
        torch.cat([state["exp_avg"].flatten() for state in each.optimizer["state"].values()])
        for each in checkpoints
    ]
    assert (momenta[0] - momenta[1]).norm() < 0.005 * momenta[0].norm()
    averages = [each.average for each in checkpoints]
    assert averages[0] is not None
    assert averages[1] is not None
    assert_close(averages[0]["averages"], averages[1]["averages"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_take_the_steps_of_one(
    plain: RunConfig, tmp_path: Path, strategy: Literal["ddp", "fsdp"]
) -> None:
    """Also where the images of one process have no objects, and their number is odd."""
    alone = train_in(1, plain, tmp_path / "alone")
    assert len(alone.losses[0]) == 3
    both = train_in(2, in_parts(plain, 2, strategy), tmp_path / "both")
    assert both.statuses == [0, 0]
    means = [fmean(each) for each in zip(*both.losses, strict=True)]
    assert means == pytest.approx(alone.losses[0], rel=1e-5)
    assert min(both.losses[0] + both.losses[1]) < 0.1
    assert both.weights[0] == both.weights[1] != ""
    assert len(both.messages("The run is in")) == len(both.messages("epoch 3 of 3")) == 1
    assert_close_runs(tmp_path / "alone", tmp_path / "both")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_four_processes_take_the_steps_of_one(
    plain: RunConfig, tmp_path: Path, strategy: Literal["ddp", "fsdp"]
) -> None:
    alone = train_in(1, plain, tmp_path / "alone")
    four = train_in(4, in_parts(plain, 4, strategy), tmp_path / "four")
    assert four.statuses == [0] * 4
    means = [fmean(each) for each in zip(*four.losses, strict=True)]
    assert means == pytest.approx(alone.losses[0], rel=1e-5)
    assert len(set(four.weights)) == 1
    assert_close_runs(tmp_path / "alone", tmp_path / "four")


@pytest.mark.slow
def test_a_run_with_noise_and_norms_stays_in_step(noisy: RunConfig, tmp_path: Path) -> None:
    config = replace(noisy, batch_size=1, accumulate=2, epochs=1)
    both = train_in(2, config, tmp_path / "run")
    assert both.statuses == [0, 0]
    # Each has noise and statistics of its own, and the weights of all.
    assert both.losses[0] != both.losses[1]
    assert both.weights[0] == both.weights[1] != ""
    assert load_checkpoint(tmp_path / "run" / "last.ckpt").progress.step == 2


@pytest.mark.slow
def test_a_run_goes_on_in_other_processes_in_another_way(plain: RunConfig, tmp_path: Path) -> None:
    """One process, then two that divide the weights, then two with a copy each."""
    train_in(1, plain, tmp_path / "alone")
    folder = tmp_path / "moved"
    terminate = partial(signal.raise_signal, signal.SIGTERM)
    stop = partial(at_batch, number=1, do=terminate)
    first = train_in(1, plain, folder, act=partial(stop, ranks=[0]))
    assert first.statuses == [143]
    resume = "--auto-resume"
    second = train_in(2, in_parts(plain, 2, "fsdp"), folder, resume, act=partial(stop, ranks=[1]))
    # One of them was asked, both stop, one says so.
    assert second.statuses == [143, 143]
    assert len(second.messages("saccade train: stopped by SIGTERM; everything is saved in")) == 1
    assert len(second.messages("Go on with: saccade train --resume --out")) == 1
    assert load_checkpoint(folder / "last.ckpt").progress.step == 2
    third = train_in(2, in_parts(plain, 2, "ddp"), folder, resume)
    assert third.statuses == [0, 0]
    assert_close_runs(tmp_path / "alone", folder)
