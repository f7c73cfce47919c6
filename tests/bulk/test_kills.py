"""Processes are killed in the middle: nothing is lost, and nothing is there twice."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from saccade.bulk.folder import PARTIAL, TRYING
from tests.bulk.sources import write_images

ROOT = Path(__file__).parents[2]
NUM_IMAGES = 12
FATAL = """
import os, sys
from functools import partial
from pathlib import Path
from saccade.cli import main
from saccade.predict import on_ray
from tests.bulk.engines import open_fatal_engine

victim = os.getpid() if sys.argv[1] == "driver" else None
marker = Path(sys.argv[2])
on_ray.open_engine = partial(open_fatal_engine, marker=marker, victim=victim)
sys.exit(main(sys.argv[3:]))
"""


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    """A Python process of its own, with a Ray of its own."""
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)


def check_results(out: Path, images: Path) -> None:
    """Every image once, and nothing else."""
    table = pq.read_table(out)
    expected = sorted(str(image) for image in images.iterdir())
    assert sorted(table["key"].to_pylist()) == expected
    assert table["error"].null_count == NUM_IMAGES
    assert not [file for file in out.iterdir() if file.name.startswith((PARTIAL, TRYING))]


@pytest.mark.slow
def test_what_a_killed_worker_was_at_is_done_by_another(weights: Path, tmp_path: Path) -> None:
    images, out, marker = write_images(tmp_path / "images", NUM_IMAGES), tmp_path / "out", "killed"
    command = ["predict", str(images), "--weights", str(weights), "--threshold", "0"]
    command += ["--engine", "ray", "--out", str(out), "--shard-size", "3", "--actors", "1"]
    done = run("-c", FATAL, "worker", str(tmp_path / marker), *command)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / marker).exists()
    check_results(out, images)


@pytest.mark.slow
def test_after_the_command_was_killed_it_goes_on(weights: Path, tmp_path: Path) -> None:
    images, out, marker = write_images(tmp_path / "images", NUM_IMAGES), tmp_path / "out", "killed"
    command = ["predict", str(images), "--weights", str(weights), "--threshold", "0"]
    command += ["--engine", "ray", "--out", str(out), "--shard-size", "3", "--actors", "1"]
    killed = run("-c", FATAL, "driver", str(tmp_path / marker), *command)
    assert killed.returncode == -9, killed.stderr
    before = {file.name: file.stat().st_mtime_ns for file in out.glob("part-*.parquet")}
    assert list(before) == ["part-000000.parquet"]
    done = run("-m", "saccade", *command)
    assert done.returncode == 0, done.stderr
    assert "1 of 4 shards were done before" in done.stdout
    after = {file.name: file.stat().st_mtime_ns for file in out.glob("part-*.parquet")}
    assert before.items() <= after.items()
    check_results(out, images)
