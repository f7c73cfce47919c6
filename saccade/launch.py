"""The processes of a run: how they start, and how they end together."""

import atexit
import inspect
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers.logger import Logger
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.strategies.model_parallel import ModelParallelStrategy
from lightning.fabric.strategies.strategy import Strategy
from torch import distributed
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from saccade.run_config import LaunchConfig
from saccade.training.sharding import shard
from saccade.training.stopping import Stopped

_runs = itertools.count()
"""Numbers the runs of a process, alike in all processes of a run."""


LONGEST_TO_JOIN = 600.0
"""Seconds that the processes of an attempt wait for each other."""


class EndedElsewhere(Exception):
    """Another process of the run ended first, and has said why."""

    def __init__(self, status: int) -> None:
        super().__init__("another process of this run ended first; its message says why.")
        self.status = status
        """The exit status of the process that ended first."""


def launch(config: LaunchConfig, loggers: Sequence[Logger]) -> Fabric:
    """Join the processes of a run, or start them where nobody has.

    Args:
        config: Which devices; under torchrun it has said already how many processes there are.
        loggers: Of the run.

    Raises:
        ValueError: If these devices cannot train here.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    nodes = int(os.environ["WORLD_SIZE"]) // local if local else config.num_nodes
    devices = local or config.devices
    try:
        fabric = Fabric(
            accelerator=config.accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy=_strategy(config, devices * nodes),
            loggers=list(loggers),
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{devices} x {config.accelerator} cannot train here "
            f"({' '.join(str(error).split())}): see --launch.accelerator and --launch.devices."
        ) from error
    if fabric.world_size > 1 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        _join_afresh(fabric.device)
    fabric.launch()
    return fabric


def is_restart() -> bool:
    """Whether torchrun has started this process in place of one that failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def may_restart() -> bool:
    """Whether torchrun will start the command again when a process fails."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def exit_status(status: int) -> int:
    """What a process ends with whose run ended with a status.

    Where Fabric started the processes, it kills all others as soon as one ends with another status
    than 0, and that of the first counts. torchrun asks all of them.
    """
    started_by_fabric = "LOCAL_WORLD_SIZE" not in os.environ
    return 0 if started_by_fabric and int(os.environ.get("LOCAL_RANK", "0")) else status


@contextmanager
def ending_together(folder: Path) -> Iterator[None]:
    """Let one process say why a run ended, the first one that knows.

    The others notice only that they lost it. They raise `EndedElsewhere`, which is no message of
    its own.

    Args:
        folder: The run folder, for the message if a process was killed and could say nothing.

    Raises:
        EndedElsewhere: In place of any exception but the first one.
        ConnectionError: If a process is lost, and none has said why.
    """
    run = next(_runs)
    try:
        yield
    except BaseException as error:
        if not distributed.is_available() or not distributed.is_initialized():
            raise
        first = _first_status(run, error.status if isinstance(error, Stopped) else 2)
        if first is not None:
            raise EndedElsewhere(first) from error
        if _is_lost_connection(error):
            raise ConnectionError(
                "the connection to another process of the run is lost, and that process has not "
                "said why: it was killed, perhaps because memory ran out, or the network failed. "
                f"What was saved last is in {folder}: resume the run (--resume)."
            ) from error
        raise


def _join_afresh(device: torch.device) -> None:
    """Join torchrun's processes under a name that no earlier attempt has used.

    Torchrun keeps one store for all attempts (torch 2.15), in which processes that were restarted
    would find the addresses of those before them.
    """
    store, rank, world_size = next(rendezvous("env://"))
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # NCCL warns of what is left open.
        atexit.register(distributed.destroy_process_group)
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(agree(store, rank, world_size), store),
        rank=rank,
        world_size=world_size,
        device_id=device if device.type == "cuda" else None,
    )


def agree(store: Store, rank: int, world_size: int) -> str:
    """A new name that all processes of an attempt know, though the store holds those of others.

    The first process proposes names until every process has found itself in the proposal.
    """
    mine = uuid4().hex
    store.set(f"saccade/here/{rank}", mine)
    others = range(1, world_size)
    end = time.monotonic() + LONGEST_TO_JOIN
    while time.monotonic() < end:
        if rank == 0:
            here = [store.get(f"saccade/here/{other}").decode() for other in others]
            store.set("saccade/proposal", " ".join([mine, *here]))
            answers = [f"saccade/answer/{mine}/{other}" for other in others]
            if store.check(answers):
                return mine
        else:
            proposal = store.get("saccade/proposal").decode().split()
            if mine in proposal:
                store.set(f"saccade/answer/{proposal[0]}/{rank}", "")
                return proposal[0]
        time.sleep(0.05)
    raise RuntimeError(f"{world_size} processes did not meet in {LONGEST_TO_JOIN:.0f} seconds.")


def _strategy(config: LaunchConfig, num_processes: int) -> Strategy | str:
    if num_processes == 1:
        return "auto"
    if config.strategy == "fsdp":
        return ModelParallelStrategy(shard, num_processes, tensor_parallel_size=1)
    # By default all buffers are sent in every step; the loop sends those that change.
    options = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in options else "broadcast_buffers"
    return DDPStrategy(**{name: False})


def _first_status(run: int, status: int) -> int | None:
    """The exit status of the process that ended first; None if that is this one."""
    name = f"saccade/run-{run}"
    try:
        store = distributed.distributed_c10d._get_default_store()
        if store.add(f"{name}/ended", 1) == 1:
            store.set(f"{name}/status", str(status))
            return None
        store.wait([f"{name}/status"], timedelta(seconds=5))
        return int(store.get(f"{name}/status"))
    except RuntimeError:
        # Without torchrun the first process keeps the store, and has taken it along.
        return 2


def _is_lost_connection(error: BaseException) -> bool:
    # Gloo's errors are plain ones.
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )
