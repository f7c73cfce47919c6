import asyncio
import gc
import threading
import weakref

import pytest

from saccade.serve.workers import Workers
from tests.serve.asking import until


class Image:
    """Something to hold."""


def test_who_gives_up_while_waiting_is_not_run_and_leaves_nothing_behind() -> None:
    gate, begun, ran = threading.Event(), threading.Event(), list[str]()

    def first() -> str:
        begun.set()
        assert gate.wait(600)
        return "first"

    async def run() -> None:
        workers = Workers(1, "test")
        running = asyncio.ensure_future(workers.run(first))
        await until(begun.is_set)
        image = Image()
        held = weakref.ref(image)
        leaving = asyncio.ensure_future(workers.run(lambda image=image: ran.append("leaving")))
        staying = asyncio.ensure_future(workers.run(lambda: ran.append("staying")))
        del image
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        del leaving
        # The loop lets go of what it has just run.
        await asyncio.sleep(0)
        gc.collect()
        assert held() is None
        gate.set()
        assert await running == "first"
        await staying

    asyncio.run(run())
    assert ran == ["staying"]


def test_what_has_begun_holds_its_thread_until_its_end() -> None:
    gate, begun, ran = threading.Event(), threading.Event(), list[str]()

    def abandoned() -> None:
        begun.set()
        assert gate.wait(600)
        ran.append("abandoned")
        raise ValueError("which nobody asks about")

    async def run() -> None:
        workers = Workers(1, "test")
        leaving = asyncio.ensure_future(workers.run(abandoned))
        await until(begun.is_set)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        next_one = asyncio.ensure_future(workers.run(lambda: ran.append("next")))
        gate.set()
        await next_one

    asyncio.run(run())
    assert ran == ["abandoned", "next"]


def test_errors_are_those_of_the_work() -> None:
    def broken() -> None:
        raise ValueError("broken")

    async def run() -> None:
        workers = Workers(1, "test")
        for _ in range(2):
            with pytest.raises(ValueError, match="broken"):
                await workers.run(broken)

    asyncio.run(run())
