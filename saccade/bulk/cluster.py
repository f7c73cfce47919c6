"""Ray: a cluster that is there, or one of our own for as long as it is needed."""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from saccade.bulk.arguments import BulkArguments

EXTRA = ("ray", "pyarrow", "pandas")
OBJECT_STORE = 256 * 2**20
"""Bytes for a Ray of our own: only names of images go through it."""
SECONDS_TO_ANSWER = 5.0
"""Ray itself waits for minutes for a cluster that is not there."""


def require_extra() -> None:
    """Import Ray Data and pyarrow.

    Raises:
        ValueError: If one is not installed.
    """
    # Before the import, which reads them: nothing is reported to Ray's makers, and what it says
    # of its inner life is in its own logs.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        for name in ("pyarrow.parquet", "ray.data"):
            import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in EXTRA:
            raise
        raise ValueError(
            f"--engine ray needs {error.name}, which is not installed: pip install 'saccade[bulk]'"
        ) from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


@dataclass(frozen=True)
class Room:
    """What Ray has."""

    cpus: float
    gpus: float
    own: bool
    """It was started by us, and does not grow."""


@contextmanager
def connected(address: str | None) -> Iterator[Room]:
    """Be connected to Ray, for a ``with``; what was started is stopped at its end.

    Args:
        address: Of a cluster, or "auto"; None for RAY_ADDRESS or, without it, a Ray of our own.

    Raises:
        ValueError: If there is no such cluster.
    """
    import ray

    if ray.is_initialized():
        yield _room(own=False)
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    own = address == "local"
    _check_answers(address)
    options: dict[str, Any] = {}
    if own:
        options = {"object_store_memory": OBJECT_STORE, "include_dashboard": False}
    try:
        with _silent():
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, str(error).splitlines()[0]) from error
    try:
        yield _room(own)
    finally:
        ray.shutdown()


@contextmanager
def _silent() -> Iterator[None]:
    """Ray's C++ says which of our settings it follows, and there is no setting against that."""
    sys.stderr.flush()
    before = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


def num_actors(options: BulkArguments, room: Room, num_shards: int) -> int:
    """How many processes look.

    Raises:
        ValueError: If there is no room for one, or a number makes no sense.
    """
    fits = room.cpus / options.cpus_per_actor
    if options.gpus_per_actor > 0:
        fits = min(fits, room.gpus / options.gpus_per_actor)
    if fits < 1 and (room.own or options.actors is None):
        grows = "" if room.own else "; if the cluster grows on demand, say --actors"
        raise ValueError(
            f"Ray has {room.cpus:g} CPUs and {room.gpus:g} GPUs, too few for an actor with "
            f"{options.cpus_per_actor:g} and {options.gpus_per_actor:g}: lower --cpus-per-actor or "
            f"--gpus-per-actor{grows}."
        )
    wanted = int(fits) if options.actors is None else options.actors
    if room.own:
        wanted = min(wanted, int(fits))
    return min(wanted, num_shards)


def check_options(options: BulkArguments) -> None:
    """Refuse numbers that make no sense.

    Raises:
        ValueError: If there are any.
    """
    if options.actors is not None and options.actors < 1:
        raise ValueError(f"--actors is {options.actors}: expected at least one.")
    if not options.cpus_per_actor > 0:
        raise ValueError(f"--cpus-per-actor is {options.cpus_per_actor:g}: expected more than 0.")
    gpus = options.gpus_per_actor
    if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
        raise ValueError(
            f"--gpus-per-actor is {gpus:g}: expected 0, a part of one such as 0.5, or a whole "
            "number."
        )


def _room(own: bool) -> Room:
    import ray

    resources = ray.cluster_resources()
    return Room(resources.get("CPU", 0.0), resources.get("GPU", 0.0), own)


def _check_answers(address: str) -> None:
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _no_cluster(address, str(error)) from error
    if host is None or port is None:
        return
    try:
        socket.create_connection((host, port), SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, reason: str) -> ValueError:
    return ValueError(
        f'there is no Ray cluster at "{address}" ({reason}): expected an address such as '
        '10.0.0.1:6379, "auto" on a machine of the cluster, or nothing for a Ray of this command.'
    )
