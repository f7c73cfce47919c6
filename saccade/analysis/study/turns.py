"""Who trains which run: one process all of them, or torchrun's processes one after the other.

Torchrun starts the processes and gives them a store; a counter in it says which run is next.
"""

import os
from datetime import timedelta

import torch
from torch.distributed import HashStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

LONGEST = timedelta(days=60)
_OF_TORCHRUN = (
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "ROLE_RANK",
    "ROLE_NAME",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_WORLD_SIZE",
    "ROLE_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_MAX_RESTARTS",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_USE_AGENT_STORE",
    "TORCHELASTIC_ERROR_FILE",
    "TORCHELASTIC_SIGNALS_TO_HANDLE",
)


class Turns:
    """One process of those that share the runs of a study."""

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        self._store = store
        self.rank = rank
        self.world_size = world_size

    def take(self) -> int:
        """The number of a run, from 0, that no process has taken before."""
        return self._store.add("taken", 1) - 1

    def arrive(self, place: str) -> None:
        """Say that this process has come as far as `place`."""
        self._store.set(f"{place}/{self.rank}", "here")

    def wait_for_first(self, place: str) -> None:
        """Wait until the first process has come as far as `place`."""
        self._store.wait([f"{place}/0"], LONGEST)

    def wait_for_all(self, place: str) -> None:
        """Wait until all have."""
        self._store.wait([f"{place}/{rank}" for rank in range(self.world_size)], LONGEST)


def join() -> Turns:
    """Meet torchrun's other processes, if it started this one, and choose this one's GPU.

    Afterwards nothing tells that torchrun was there: every process trains by itself. To be called
    before anything asks CUDA, and before Lightning is imported: both look at the environment once.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        _forget_torchrun()
        return Turns(HashStore(), 0, 1)
    store, rank, world_size = next(iter(rendezvous("env://")))
    _choose_gpu(int(os.environ.get("LOCAL_RANK", "0")))
    _forget_torchrun()
    return Turns(store, rank, world_size)


def _choose_gpu(local_rank: int) -> None:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(index) for index in range(torch.cuda.device_count())]
    if visible:
        gpus = visible.split(",")[: len(gpus)]
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[local_rank % len(gpus)]


def _forget_torchrun() -> None:
    for name in _OF_TORCHRUN:
        os.environ.pop(name, None)
