"""Images of different requests run together: those of one resized size, and no others."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from saccade.inference.engine import Engine
from saccade.model import Found, select
from saccade.serve.metrics import Metrics
from saccade.serve.refusals import Refusal
from saccade.serve.settings import Limits
from saccade.serve.workers import Workers

MAX_TOP_K = 1000
"""Most detections that a request may ask for: so many are selected for every image of a batch, so
that none depends on what its neighbours ask for."""


@dataclass(eq=False)
class _Waiting:
    image: UInt8[Tensor, "3 H W"]
    since: float
    found: "asyncio.Future[Found]"

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(self.image.shape)


class Batcher:
    """The queue of one model.

    Its methods are called in the event loop's thread; the engine runs in the workers'.
    """

    def __init__(
        self, name: str, engine: Engine, limits: Limits, thread: Workers, metrics: Metrics
    ) -> None:
        self._name = name
        self._engine = engine
        self._limits = limits
        self._thread = thread
        self._metrics = metrics
        self._waiting: list[_Waiting] = []
        self._arrived: asyncio.Event | None = None
        self._runner: asyncio.Task[None] | None = None
        self._places = 0
        self._seconds_per_image = 0.0
        metrics.watch_queue(name, lambda: self._places)

    def check_room(self) -> None:
        """Refuse what would not be answered in time.

        Raises:
            Refusal: If as many as allowed wait or run, or more than the model has been able to run
                within the time that a request may take.
        """
        wait = self._places * self._seconds_per_image
        if self._places >= self._limits.queue or wait > self._limits.timeout:
            raise Refusal(
                429,
                f"{self._places} images wait for {self._name} already: try again later.",
                "queue",
                wait,
            )

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue, held from a complete request to its answer.

        Raises:
            Refusal: See `check_room`.
        """
        self.check_room()
        self._places += 1
        try:
            yield
        finally:
            self._places -= 1

    async def find(self, image: UInt8[Tensor, "3 H W"]) -> Found:
        """What is found in an image that is resized already; whoever is cancelled is not run."""
        loop = asyncio.get_running_loop()
        entry = _Waiting(image, loop.time(), loop.create_future())
        self._waiting.append(entry)
        if self._arrived is not None:
            self._arrived.set()
        if self._runner is None:
            self._runner = loop.create_task(self._run())
        try:
            return await entry.found
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._wait_for_company()
                batch = self._take()
                if batch:
                    await self._compute(batch)
        finally:
            self._runner = None

    async def _wait_for_company(self) -> None:
        """Until the oldest image has as much company as allowed, or has waited long enough."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            oldest = self._waiting[0]
            left = oldest.since + self._limits.max_wait / 1000 - loop.time()
            if left <= 0 or len(self._company(oldest)) >= self._limits.max_batch:
                return
            self._arrived = asyncio.Event()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left)

    def _company(self, oldest: _Waiting) -> list[_Waiting]:
        alike = [entry for entry in self._waiting if entry.size == oldest.size]
        return alike[: self._limits.max_batch]

    def _take(self) -> list[_Waiting]:
        if not self._waiting:
            return []
        batch = self._company(self._waiting[0])
        self._waiting = [entry for entry in self._waiting if entry not in batch]
        return batch

    async def _compute(self, batch: list[_Waiting]) -> None:
        start = time.perf_counter()
        images = [entry.image for entry in batch]
        work = asyncio.ensure_future(self._thread.run(lambda: self._detect(images)))
        await asyncio.wait({work})
        error = work.exception()
        for index, entry in enumerate(batch):
            # Whoever gave up meanwhile is done.
            if entry.found.done():
                continue
            if error is not None:
                entry.found.set_exception(error)
            else:
                entry.found.set_result(work.result()[index])
        seconds = time.perf_counter() - start
        self._metrics.inference.labels(self._name).observe(seconds)
        self._metrics.batch_sizes.labels(self._name).observe(len(batch))
        each = seconds / len(batch)
        self._seconds_per_image += (each - self._seconds_per_image) * 0.2

    def _detect(self, images: list[Tensor]) -> list[Found]:
        with torch.inference_mode():
            predictions = self._engine(torch.stack(images))
            found = select(predictions, self._engine.config.classification, MAX_TOP_K)
            if len(found) != len(images):
                raise RuntimeError(
                    f"{self._name} was given {len(images)} images and answered for {len(found)}."
                )
            return [
                Found(each.boxes.cpu(), each.scores.cpu(), each.labels.cpu(), each.queries.cpu())
                for each in found
            ]
