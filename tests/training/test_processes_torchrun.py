"""torchrun starts the processes, on one machine or several, and starts them again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from saccade.data import Split
from saccade.run_config import LaunchConfig, RunConfig
from saccade.settings import write_yaml
from saccade.training.checkpoint import load_checkpoint
from tests.training.processes import LONGEST, free_port, train_in
from tests.training.test_distributed import OBJECTS, SIZES, assert_close_runs
from tests.training.test_resume import assert_same_run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def two(run: RunConfig, write_coco: Callable[..., Split]) -> RunConfig:
    """Two epochs of three steps with noise, an image in each of two processes."""
    write_coco(SIZES, OBJECTS)
    launch = LaunchConfig(accelerator="cpu")
    return replace(run, launch=launch, batch_size=1, checkpoint_minutes=0.0, ema=0.9)


def start(options: Sequence[str], module: str, config: RunConfig, out: Path) -> subprocess.Popen:
    """torchrun in a process group of its own."""
    file = out.with_name(f"{out.name}.yaml")
    write_yaml(config, file)
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", *options, "-m", module),
            *("train", "--config", str(file), "--out", str(out)),
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(processes: Sequence[subprocess.Popen]) -> list[tuple[int, str]]:
    """Exit status and output of each; what still runs after a while is killed."""
    end = time.monotonic() + LONGEST
    try:
        said = [each.communicate(timeout=max(1.0, end - time.monotonic()))[0] for each in processes]
    finally:
        for each in processes:
            if each.poll() is None:
                os.killpg(each.pid, signal.SIGKILL)
                each.wait()
    return [(each.returncode, text) for each, text in zip(processes, said, strict=True)]


@pytest.mark.slow
def test_a_run_whose_process_is_killed_and_restarted_equals_the_whole_one_bitwise(
    two: RunConfig, tmp_path: Path
) -> None:
    train_in(2, two, tmp_path / "whole")
    options = ["--standalone", "--nproc-per-node=2", "--max-restarts=1", "--monitor-interval=0.1"]
    process = start(options, "tests.training.killed_once", two, tmp_path / "killed")
    ((status, said),) = finish([process])
    assert status == 0, said
    assert "the connection to another process of the run is lost" in said
    assert len(list((tmp_path / "killed" / "logs").iterdir())) == 2
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_two_machines_train_as_one_process(two: RunConfig, tmp_path: Path) -> None:
    """Two torchruns that find each other, in place of two machines."""
    train_in(2, two, tmp_path / "one-machine")
    rendezvous = f"--rdzv-endpoint=127.0.0.1:{free_port()}"
    options = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", rendezvous]
    out = tmp_path / "two-machines"
    ends = finish([start([*options, "--rdzv-id=1"], "saccade", two, out) for _ in range(2)])
    assert [status for status, _ in ends] == [0, 0], ends
    assert "".join(said for _, said in ends).count("The run is in") == 1
    assert_close_runs(tmp_path / "one-machine", out)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_torchrun_saves_the_run(
    two: RunConfig, tmp_path: Path, number: signal.Signals
) -> None:
    """A terminal sends Ctrl-C to all processes, and torchrun passes it on once more."""
    config = replace(two, epochs=1000, num_evaluations=1)
    out = tmp_path / "run"
    process = start(["--standalone", "--nproc-per-node=2"], "saccade", config, out)
    end = time.monotonic() + LONGEST
    while not (out / "last.ckpt").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    before = (out / "last.ckpt").stat().st_mtime_ns
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    ((status, said),) = finish([process])
    assert status != 0
    message = f"saccade train: stopped by {number.name}; everything is saved in {out}."
    assert said.count(message) == 1, said
    assert (out / "last.ckpt").stat().st_mtime_ns > before
    load_checkpoint(out / "last.ckpt")


def test_a_command_that_is_repeated_names_its_folder(
    two: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from saccade.cli import main

    write_yaml(two, tmp_path / "run.yaml")
    command = ["train", "--config", str(tmp_path / "run.yaml")]
    assert main([*command, "--auto-resume"]) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
        assert main(command) == 2
    said = capsys.readouterr().err
    assert said.count("name the run folder with --out, so that it is found again.") == 2
