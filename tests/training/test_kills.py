"""SIGKILL at random moments: what is on the disk is enough to go on with the same bits."""

import multiprocessing
import os
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saccade.run import train
from saccade.run_config import RunConfig
from saccade.training.checkpoint import load_checkpoint
from tests.training.test_resume import assert_same_run

KILLS = 20


def train_alone(config: RunConfig, folder: Path) -> None:
    """In a process of its own, on one thread, from where the folder is."""
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    train(config, folder, resume=(folder / "last.ckpt").exists())


@pytest.mark.slow
def test_a_run_killed_twenty_times_equals_the_whole_one_bitwise(
    run: RunConfig, tmp_path: Path
) -> None:
    config = replace(
        run,
        epochs=20,
        num_evaluations=10,
        batch_size=1,
        accumulate=2,
        ema=0.99,
        checkpoint_minutes=0.0,
    )
    context = multiprocessing.get_context("forkserver")
    # Each process is forked from one that has imported everything.
    context.set_forkserver_preload(["saccade.run"])

    def start(folder: Path) -> multiprocessing.process.BaseProcess:
        process = context.Process(target=train_alone, args=(config, folder))
        process.start()
        return process

    train_alone_once = start(tmp_path / "warm-up")
    train_alone_once.join()
    assert train_alone_once.exitcode == 0
    # How long it takes to the first checkpoint, and to the end.
    began = time.perf_counter()
    whole = start(tmp_path / "whole")
    while not (tmp_path / "whole" / "last.ckpt").exists():
        time.sleep(0.005)
    first = time.perf_counter() - began
    whole.join()
    assert whole.exitcode == 0
    share = (time.perf_counter() - began - first) / (1.5 * KILLS)

    dice = random.Random(0)
    steps = []
    for _ in range(KILLS):
        process = start(tmp_path / "killed")
        time.sleep(dice.uniform(0.3 * first, first + share))
        process.kill()
        process.join()
        steps.append(
            load_checkpoint(tmp_path / "killed" / "last.ckpt")[0].step
            if (tmp_path / "killed" / "last.ckpt").exists()
            else 0
        )
    # The kills came while the run was under way.
    assert len(set(steps)) > KILLS // 4
    assert steps[-1] < 40
    last = start(tmp_path / "killed")
    last.join()
    assert last.exitcode == 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
