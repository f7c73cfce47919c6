"""A run that was stopped or killed goes on as if it had not been."""

import os
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from saccade.cli import main
from saccade.run import train
from saccade.run_config import RunConfig
from saccade.settings import write_yaml
from saccade.training import loop, stopping
from saccade.training.checkpoint import Checkpoint, Progress, load_checkpoint, save_checkpoint
from saccade.training.guards import Moment
from saccade.training.records import EvaluationRecords
from saccade.training.step import Stepper
from saccade.training.stopping import Stopped, StopRequests


class Killed(BaseException):
    """Ends a run as SIGKILL does, where nothing of the run catches it."""


@pytest.fixture
def steps(run: RunConfig) -> RunConfig:
    """Two epochs of two steps over two batches each, with dropout and averaged weights, saved
    after every step."""
    decoder = replace(run.model.decoder, dropout=0.1)
    model = replace(run.model, decoder=decoder)
    return replace(run, model=model, batch_size=1, accumulate=2, ema=0.9, checkpoint_minutes=0.0)


def at_batch(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Act before the batch of this number of a session."""
    original = Stepper.take
    taken = 0

    def take(self: Stepper, moment: Moment, progress: Progress, share: float, last: bool) -> bool:
        nonlocal taken
        taken += 1
        if taken == number:
            act()
        return original(self, moment, progress, share, last)

    monkeypatch.setattr(Stepper, "take", take)


def kill() -> None:
    raise Killed


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def assert_same(one: Any, other: Any) -> None:
    """Equal to the last bit, however deep."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_same(value, other[key])
    elif isinstance(one, list | tuple):
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    else:
        assert one == other


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("last", "best"):
        files = [folder / name / "model.safetensors" for folder in (one, other)]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    checkpoints = [load_checkpoint(folder / "last.ckpt") for folder in (one, other)]
    for checkpoint in checkpoints:
        checkpoint.progress.seconds = 0.0
    assert_same(*checkpoints)
    records = [EvaluationRecords(folder / "evaluations.jsonl").read() for folder in (one, other)]
    for record in (*records[0], *records[1]):
        del record["minutes"]
    assert records[0] == records[1]


def test_a_run_interrupted_again_and_again_equals_the_whole_one_bitwise(
    steps: RunConfig, tmp_path: Path
) -> None:
    train(steps, tmp_path / "whole")
    folder = tmp_path / "interrupted"

    with pytest.MonkeyPatch.context() as patch:
        at_batch(patch, 1, terminate)
        with pytest.raises(Stopped, match="stopped by SIGTERM; everything is saved in"):
            train(steps, folder)
    progress = load_checkpoint(folder / "last.ckpt")[0]
    assert (progress.epoch, progress.batch, progress.step) == (0, 2, 1)

    with pytest.MonkeyPatch.context() as patch:
        # In the middle of a step.
        at_batch(patch, 2, kill)
        with pytest.raises(Killed):
            train(steps, folder, resume=True)

    def kill_while_writing(*arguments: Any) -> None:
        (folder / "last.partial").write_bytes(b"half")
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", kill_while_writing)
        with pytest.raises(Killed):
            train(steps, folder, resume=True)

    def add_half(self: EvaluationRecords, *arguments: Any) -> None:
        self.file.write_text('{"epoch": 1, "step": 2, "AP')
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EvaluationRecords, "add", add_half)
        with pytest.raises(Killed):
            train(steps, folder, resume=True)

    original = EvaluationRecords.add

    def kill_after_adding(self: EvaluationRecords, *arguments: Any) -> None:
        original(self, *arguments)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EvaluationRecords, "add", kill_after_adding)
        with pytest.raises(Killed):
            train(steps, folder, resume=True)
    train(steps, folder, resume=True)
    assert_same_run(tmp_path / "whole", folder)


def test_a_run_bound_by_minutes_goes_on_where_it_stopped(run: RunConfig, tmp_path: Path) -> None:
    run = replace(run, minutes=0.05, num_evaluations=1)
    with pytest.MonkeyPatch.context() as patch:
        # The first batch's time is not counted.
        at_batch(patch, 1, terminate)
        with pytest.raises(Stopped):
            train(run, tmp_path / "run")
    before = load_checkpoint(tmp_path / "run" / "last.ckpt")[0]
    assert (before.epoch, before.batch, before.step) == (0, 1, 1)
    train(run, tmp_path / "run", resume=True)
    after = load_checkpoint(tmp_path / "run" / "last.ckpt")[0]
    assert after.step > before.step
    assert after.seconds >= 3.0
    assert len(EvaluationRecords(tmp_path / "run" / "evaluations.jsonl").read()) == 1


def test_the_command_says_how_to_go_on(
    run: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_yaml(replace(run, epochs=1), tmp_path / "run.yaml")
    out = str(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        at_batch(patch, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert main(["train", "--config", str(tmp_path / "run.yaml"), "--out", out]) == 130
    said = capsys.readouterr().err
    assert f"stopped by SIGINT; everything is saved in {out}." in said
    assert f"Go on with: saccade train --resume --out {out}\n" in said
    assert main(["train", "--resume", "--out", out]) == 0
    assert not (tmp_path / "run" / "last.partial").exists()


def test_signals_do_afterwards_what_they_did_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopRequests(tmp_path) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received is signal.SIGINT
        # Passed on by a launcher, it is the same one.
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.setattr(stopping, "AGAIN_AFTER", 0.0)
        # The second one does not wait.
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == before[1]
        with pytest.raises(Stopped), stop.at_once():
            pass
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_request_ends_an_evaluation_at_once(tmp_path: Path) -> None:
    with StopRequests(tmp_path) as stop, pytest.raises(Stopped) as stopped, stop.at_once():
        terminate()
    assert stopped.value.status == 128 + signal.SIGTERM


def test_the_last_good_checkpoint_survives_a_full_disk(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    save_checkpoint(file, Checkpoint(Progress(step=1), {"weight": torch.ones(3)}, {}))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot be written .*the one before is kept; make room"):
            save_checkpoint(file, Checkpoint(Progress(step=2), {"weight": torch.ones(100_000)}, {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    progress, model, *_ = load_checkpoint(file)
    assert progress.step == 1
    assert torch.equal(model["weight"], torch.ones(3))
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    progress = {"epoch": 2, "step": 10, "seconds": 1.5}
    torch.save({"progress": progress, "model": {}, "optimizer": {}}, tmp_path / "last.ckpt")
    assert load_checkpoint(tmp_path / "last.ckpt")[0] == Progress(2, 10, 1.5)


def test_a_resumed_run_takes_the_options_that_are_given_now(run: RunConfig, tmp_path: Path) -> None:
    run = replace(run, epochs=1, schedule=replace(run.schedule, warmup=0.0))
    train(run, tmp_path / "run")
    slower = replace(run.optimizer, learning_rate=run.optimizer.learning_rate / 8)
    train(replace(run, epochs=2, optimizer=slower), tmp_path / "run", resume=True)
    group = load_checkpoint(tmp_path / "run" / "last.ckpt").optimizer["param_groups"][0]
    assert group["initial_lr"] == slower.learning_rate
    assert group["lr"] <= slower.learning_rate
