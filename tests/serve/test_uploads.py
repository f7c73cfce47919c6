import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from saccade.serve.app import create_app
from saccade.serve.served import Served
from saccade.serve.settings import Limits
from tests.serve.asking import GatedEngine, ask, client_of, form, picture, until

SMALL = Limits(max_upload=0.01, upload_memory=0.01)
"""Ten kilobytes."""


async def chunks(number: int, sent: list[int]) -> AsyncIterator[bytes]:
    """Of a kilobyte each, of a body whose length is not declared."""
    for index in range(number):
        sent.append(index)
        yield b"x" * 1000


@pytest.mark.parametrize(("size", "status"), [(9_000, 422), (11_000, 413), (1_000_000, 413)])
def test_a_body_that_declares_more_than_allowed_is_refused(
    engine: GatedEngine, size: int, status: int
) -> None:
    async def questions(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/predict", files=form(b"x" * size))

    answer = ask(engine, questions, SMALL)
    assert answer.status_code == status
    if status == 413:
        assert answer.json()["detail"].startswith("the request is larger than 0.01 MB")
        assert answer.headers["Connection"] == "close"


def test_a_body_is_not_read_to_its_end_when_it_declares_nothing(engine: GatedEngine) -> None:
    sent: list[int] = []
    app = create_app([Served("small", engine)], SMALL)

    async def run() -> httpx.Response:
        async with client_of(app) as client:
            return await client.post("/predict", content=chunks(10_000, sent))

    answer = asyncio.run(run())
    assert answer.status_code == 413
    # What is allowed, some of the rest so that the client hears the answer, and no more.
    assert len(sent) < 60
    assert b"saccade_upload_bytes 0.0" in app.state.metrics.text()


def test_a_client_that_waits_for_leave_to_send_too_much_is_not_given_it(
    engine: GatedEngine,
) -> None:
    sent: list[int] = []

    async def questions(client: httpx.AsyncClient) -> httpx.Response:
        headers = {"Expect": "100-continue", "Content-Length": "20000"}
        return await client.post("/predict", content=chunks(20, sent), headers=headers)

    assert ask(engine, questions, SMALL).status_code == 413
    assert sent == []


def test_a_client_that_sends_too_slowly_is_cut_off(engine: GatedEngine) -> None:
    async def questions(client: httpx.AsyncClient) -> httpx.Response:
        never = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"x"
            await never.wait()

        return await client.post("/predict", content=slow())

    answer = ask(engine, questions, Limits(upload_timeout=0.05))
    assert (answer.status_code, answer.headers["Connection"]) == (408, "close")
    assert answer.json()["detail"] == "the request did not arrive within 0.05 s."


def test_all_bodies_together_have_a_limit(engine: GatedEngine) -> None:
    app = create_app([Served("small", engine)], SMALL)

    async def run() -> None:
        more = asyncio.Event()

        async def half() -> AsyncIterator[bytes]:
            yield b"x" * 6_000
            await more.wait()

        async with client_of(app) as client:
            first = asyncio.ensure_future(client.post("/predict", content=half()))
            await until(lambda: b"saccade_upload_bytes 6000.0" in app.state.metrics.text())
            second = await client.post("/predict", content=b"x" * 5_000)
            assert (second.status_code, second.headers["Retry-After"]) == (429, "1")
            more.set()
            assert (await first).status_code == 415
            third = await client.post("/predict", files=form(picture()))
            assert third.status_code == 200

    asyncio.run(run())
    assert b"saccade_upload_bytes 0.0" in app.state.metrics.text()
