import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from saccade.inference.engine import TorchEngine
from saccade.model import DetectorModel
from saccade.serve.batching import Batcher
from saccade.serve.metrics import Metrics
from saccade.serve.refusals import Refusal
from saccade.serve.settings import Limits
from saccade.serve.workers import Workers
from tests.conftest import small_config
from tests.serve.asking import GatedEngine


@pytest.fixture
def thread() -> Workers:
    return Workers(1, "inference")


def grey(height: int, width: int, value: int = 100) -> Tensor:
    return torch.full((3, height, width), value, dtype=torch.uint8)


def run(
    engine: Any,
    thread: Workers,
    work: Callable[[Batcher], Awaitable[Any]],
    **limits: Any,
) -> Any:
    batcher = Batcher("small", engine, Limits(**limits), thread, Metrics())

    async def working() -> Any:
        return await work(batcher)

    return asyncio.run(working())


def test_images_of_one_size_share_a_batch_and_others_do_not(
    engine: GatedEngine, thread: Workers
) -> None:
    sizes = [(8, 8), (8, 9), (8, 8), (9, 8), (8, 8), (8, 9)]
    values = [10 * number for number in range(1, 7)]

    async def work(batcher: Batcher) -> list[float]:
        images = [grey(*size, value) for size, value in zip(sizes, values, strict=True)]
        found = await asyncio.gather(*map(batcher.find, images))
        return [each.scores[0].item() for each in found]

    scores = run(engine, thread, work, max_wait=50.0)
    assert engine.batches == [3, 2, 1]
    share = torch.tensor(values) / 255
    softmax = torch.tensor(scores)
    # The brighter the image, the higher its score: each got its own.
    assert softmax.argsort().tolist() == share.argsort().tolist()


def test_a_batch_is_no_larger_than_allowed_and_does_not_wait_when_full(
    engine: GatedEngine, thread: Workers
) -> None:
    async def work(batcher: Batcher) -> None:
        await asyncio.gather(*(batcher.find(grey(8, 8)) for _ in range(8)))

    # A minute: the test would not end if a full batch waited.
    run(engine, thread, work, max_batch=4, max_wait=60_000.0)
    assert engine.batches == [4, 4]


def test_a_lonely_image_waits_for_company_no_longer_than_said(
    engine: GatedEngine, thread: Workers
) -> None:
    async def work(batcher: Batcher) -> None:
        await asyncio.wait_for(batcher.find(grey(8, 8)), 600)

    run(engine, thread, work, max_wait=10.0)
    assert engine.batches == [1]


def test_who_gives_up_is_not_run(engine: GatedEngine, thread: Workers) -> None:
    async def work(batcher: Batcher) -> None:
        engine.gate.clear()
        running = asyncio.ensure_future(batcher.find(grey(8, 8)))
        while not engine.batches:
            await asyncio.sleep(0.001)
        staying, leaving = (asyncio.ensure_future(batcher.find(grey(8, 9))) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        engine.gate.set()
        await asyncio.gather(running, staying)

    run(engine, thread, work, max_wait=0.0)
    assert engine.batches == [1, 1]


def test_a_detector_that_fails_says_so_to_its_batch_and_runs_again(
    engine: GatedEngine, thread: Workers
) -> None:
    async def work(batcher: Batcher) -> None:
        engine.failure = RuntimeError("out of memory")
        both = [batcher.find(grey(8, 8)) for _ in range(2)]
        errors = await asyncio.gather(*both, return_exceptions=True)
        assert [str(error) for error in errors] == ["out of memory"] * 2
        engine.failure = None
        assert len((await batcher.find(grey(8, 8))).scores) == 1

    run(engine, thread, work)


def test_an_engine_that_answers_for_fewer_images_fails_all_of_them(
    engine: GatedEngine, thread: Workers
) -> None:
    engine.forgets = 1

    async def work(batcher: Batcher) -> None:
        both = [batcher.find(grey(8, 8)) for _ in range(2)]
        errors = await asyncio.wait_for(asyncio.gather(*both, return_exceptions=True), 600)
        sentence = "small was given 2 images and answered for 1."
        assert [str(error) for error in errors] == [sentence] * 2

    run(engine, thread, work)


def test_a_full_queue_refuses_and_says_when_to_come_again(
    engine: GatedEngine, thread: Workers
) -> None:
    async def work(batcher: Batcher) -> None:
        with batcher.place(), batcher.place():
            with pytest.raises(Refusal) as refusal, batcher.place():
                pass
            assert refusal.value.status_code == 429
            assert refusal.value.headers == {"Retry-After": "1"}
            assert refusal.value.detail == "2 images wait for small already: try again later."
        with batcher.place():
            pass

    run(engine, thread, work, queue=2)


def test_what_could_not_be_answered_in_time_is_refused_at_once(
    engine: GatedEngine, thread: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = count(step=100)
    slow = SimpleNamespace(perf_counter=lambda: next(clock))
    monkeypatch.setattr("saccade.serve.batching.time", slow)

    async def work(batcher: Batcher) -> None:
        # An image takes a hundred seconds, or twenty, as far as a first one tells.
        await batcher.find(grey(8, 8))
        with batcher.place(), batcher.place():
            with pytest.raises(Refusal) as refusal, batcher.place():
                pass
            assert refusal.value.headers == {"Retry-After": "40"}

    run(engine, thread, work, timeout=30.0)


def test_a_detector_finds_the_same_beside_any_neighbours(thread: Workers) -> None:
    torch.manual_seed(0)
    config = small_config("two-stage")
    engine = TorchEngine(config, DetectorModel(config).eval())
    images = [torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8) for _ in range(4)]

    async def alone(batcher: Batcher) -> Any:
        return await batcher.find(images[0])

    async def together(batcher: Batcher) -> Any:
        return (await asyncio.gather(*map(batcher.find, images)))[0]

    one = run(engine, thread, alone)
    other = run(engine, thread, together, max_batch=4, max_wait=60_000.0)
    torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(one.boxes[:5], other.boxes[:5], rtol=0, atol=1e-4)
