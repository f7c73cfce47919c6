"""Several processes of one run on this machine, forked from one that has imported everything."""

import hashlib
import json
import multiprocessing
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import saccade.run
from saccade.cli import main
from saccade.run_config import RunConfig
from saccade.settings import write_yaml
from saccade.training.step import Stepper

Act = Callable[[int], None]
"""What a process does beforehand, by its rank; a function of a module."""

LONGEST = 400.0
"""Seconds after which processes are killed: some wait for each other."""


@dataclass(frozen=True)
class Outcome:
    """What became of a run."""

    statuses: list[int | None]
    """Of each process; None if it had to be killed."""
    said: str
    """By all of them."""
    losses: list[list[float]]
    """Of each process, of every batch."""
    weights: list[str]
    """A digest of those that each process ended with; empty for none."""

    def messages(self, *beginnings: str) -> list[str]:
        """The lines that begin so."""
        return [line for line in self.said.splitlines() if line.startswith(beginnings)]


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def nothing(_: int) -> None:
    """No act."""


def at_batch(rank: int, *, number: int, ranks: Sequence[int], do: Callable[[], None]) -> None:
    """An act: something that some processes do before the batch of this number."""
    original = Stepper.take
    taken = 0

    def take(self: Stepper, *arguments: Any) -> bool:
        nonlocal taken
        taken += 1
        if taken == number and rank in ranks:
            do()
        return original(self, *arguments)

    Stepper.take = take  # type: ignore[method-assign]


def train_in(
    count: int,
    config: RunConfig,
    folder: Path,
    *options: str,
    act: Act = nothing,
    meanwhile: Callable[[list[Any]], None] = lambda _: None,
) -> Outcome:
    """`saccade train` in so many processes, as torchrun starts them.

    Args:
        count: How many.
        config: The run.
        folder: The run folder.
        options: Of the command.
        act: Called in every process before it trains.
        meanwhile: Called here with the processes while they run.
    """
    scratch = folder.with_name(f"{folder.name}-processes")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    write_yaml(config, scratch / "run.yaml")
    command = ["train", "--config", str(scratch / "run.yaml"), "--out", str(folder), *options]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["saccade.run"])
    port = free_port()
    processes = [
        context.Process(target=_work, args=(rank, count, port, command, scratch, act))
        for rank in range(count)
    ]
    end = time.monotonic() + LONGEST
    try:
        for process in processes:
            process.start()
        meanwhile(processes)
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
        statuses = [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.join()
    said = "".join((scratch / f"{rank}.txt").read_text() for rank in range(count))
    files = [scratch / f"{rank}.json" for rank in range(count)]
    losses = [json.loads(file.read_text()) if file.exists() else [] for file in files]
    digests = [scratch / f"{rank}.sha" for rank in range(count)]
    weights = [file.read_text() if file.exists() else "" for file in digests]
    return Outcome(statuses, said, losses, weights)


def _work(rank: int, count: int, port: int, command: list[str], scratch: Path, act: Act) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }
    torch.set_num_threads(1)
    # The end of a process must not lose what it said.
    sys.stdout = sys.stderr = (scratch / f"{rank}.txt").open("w", buffering=1)
    losses: list[float] = []
    original = Stepper._note

    def note(self: Stepper, parts: Any, total: torch.Tensor, *rest: Any) -> None:
        losses.append(total.item())
        original(self, parts, total, *rest)

    Stepper._note = note  # type: ignore[method-assign]
    original_train = saccade.run.train

    def train(*arguments: Any) -> Any:
        detector = original_train(*arguments)
        state = detector.model.state_dict().values()
        digest = hashlib.sha256(b"".join(each.numpy().tobytes() for each in state)).hexdigest()
        (scratch / f"{rank}.sha").write_text(digest)
        return detector

    saccade.run.train = train
    act(rank)
    try:
        sys.exit(main(command))
    finally:
        (scratch / f"{rank}.json").write_text(json.dumps(losses))
