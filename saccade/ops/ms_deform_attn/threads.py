"""A small thread pool of our own for kernels that release the interpreter lock.

numba's pools either abort when two threads call at once or kill a forked data loader's children;
this one is started when first needed, forgotten in a forked child and safe to share.
"""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def _forget_pool() -> None:
    """In a forked child: its copy of the pool has no threads, its lock may be held for ever."""
    global _pool, _pool_lock
    _pool = None
    _pool_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _shared_pool() -> ThreadPoolExecutor:
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="saccade")
        return _pool


def run_tasks(tasks: Iterable[Callable[[], None]], num_threads: int) -> None:
    """Call every task, at most ``num_threads`` at a time, the caller's thread being one of them.

    Tasks are handed out in order to whoever is free. The first error of a task is raised here,
    once no task is running any more.
    """
    if num_threads <= 1:
        for task in tasks:
            task()
        return
    remaining = iter(tasks)
    hand_out = threading.Lock()

    def work() -> None:
        while True:
            with hand_out:
                task = next(remaining, None)
            if task is None:
                return
            task()

    try:
        helpers = [_shared_pool().submit(work) for _ in range(num_threads - 1)]
    except RuntimeError:
        # The interpreter is about to end and starts no more threads: this one does all.
        helpers = []
    try:
        work()
    finally:
        # Helpers that never started, the pool being busy with another caller, are not waited for.
        errors = [helper.exception() for helper in helpers if not helper.cancel()]
    for error in errors:
        if error is not None:
            raise error
