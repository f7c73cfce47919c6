"""Threads for what would stop the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Workers:
    """Some threads, and who waits for one.

    An executor alone would keep the work of those who gave up, with their images, until its turn
    came; here work is handed to a thread only when one is free.
    """

    def __init__(self, number: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(number, name)
        self._free = asyncio.Semaphore(number)

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, in the order of the calls; whoever is cancelled before is not run.

        What has begun runs to its end, and holds its thread until then, also if nobody waits.
        """
        await self._free.acquire()
        doing = asyncio.get_running_loop().run_in_executor(self._threads, work)
        doing.add_done_callback(self._release)
        await asyncio.wait({doing})
        return doing.result()

    def _release(self, done: "asyncio.Future[T]") -> None:
        self._free.release()
        if not done.cancelled():
            # Nobody may be left to be told; asyncio would log that.
            done.exception()
