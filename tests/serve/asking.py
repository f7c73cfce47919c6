"""A detector that can be made to wait, and questions to a server in this process."""

import asyncio
import io
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from PIL import Image
from torch import Tensor

from saccade.config import DetectorConfig
from saccade.presets import preset_config
from saccade.serve.app import create_app
from saccade.serve.served import Served
from saccade.serve.settings import Access, Limits
from saccade.structures import Predictions

PATIENT = Limits(timeout=600.0, upload_timeout=600.0)
"""For machines that stand still now and then."""


class GatedEngine:
    """Finds one object, whose score is the image's mean; runs while its gate is open."""

    def __init__(self) -> None:
        self.config: DetectorConfig = preset_config("detr-nano", ["cat", "dog"])
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []
        self.failure: Exception | None = None
        self.forgets = 0
        """How many images of a batch are not answered."""

    def __call__(self, images: Tensor) -> Predictions:
        self.batches.append(len(images))
        assert self.gate.wait(600)
        if self.failure is not None:
            raise self.failure
        images = images[self.forgets :]
        brightness = images.float().mean((1, 2, 3)) / 255
        logits = torch.zeros(len(images), 1, 3)
        logits[:, 0, 0] = torch.logit(brightness, eps=1e-4)
        logits[:, 0, 1:] = torch.tensor([-9.0, 0.0])
        boxes = torch.tensor([0.5, 0.5, 0.5, 0.5]).expand(len(images), 1, 4)
        return Predictions(logits, boxes)


def picture(brightness: int = 255, size: tuple[int, int] = (40, 60), kind: str = "PNG") -> bytes:
    """An image file of one grey, of this (height, width)."""
    file = io.BytesIO()
    Image.fromarray(np.full((*size, 3), brightness, np.uint8)).save(file, kind)
    return file.getvalue()


def form(image: bytes) -> dict[str, tuple[str, bytes]]:
    return {"image": ("image", image)}


def client_of(app: Any, **options: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost:8000", **options)


def ask(
    engine: GatedEngine,
    questions: Callable[[httpx.AsyncClient], Awaitable[Any]],
    limits: Limits | None = None,
    access: Access | None = None,
    **options: Any,
) -> Any:
    """Run a coroutine with a client of a new server, and return what it returns."""
    app = create_app([Served("small", engine)], limits or PATIENT, access, **options)

    async def run() -> Any:
        async with client_of(app) as client:
            return await questions(client)

    return asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until something is so."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to it")


@contextmanager
def serving(app: FastAPI, **options: Any) -> Iterator[str]:
    """A server in a thread of this process; gives its address."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", **options))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            # Whoever connects before the server accepts is kept waiting by the socket.
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
