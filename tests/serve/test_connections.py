import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest

from saccade.serve.app import create_app
from saccade.serve.connections import ImpatientProtocol
from saccade.serve.served import Served
from tests.serve.asking import PATIENT, GatedEngine, form, picture, serving

QUESTION = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def address(engine: GatedEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("saccade.serve.connections.HEADERS_SECONDS", 0.05)
    app = create_app([Served("small", engine)], PATIENT)
    with serving(app, http=ImpatientProtocol) as address:
        yield address


def connect(address: str) -> socket.socket:
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname, parts.port), timeout=60)


def is_closed(connection: socket.socket) -> bool:
    return connection.recv(1000) == b""


@pytest.mark.parametrize("begun", [b"", b"GET /health HTT", QUESTION[:-2]])
def test_a_connection_that_finishes_no_headers_is_closed(address: str, begun: bytes) -> None:
    with connect(address) as connection:
        connection.sendall(begun)
        assert is_closed(connection)


def test_nor_may_a_second_request_stop_in_its_headers(address: str) -> None:
    with connect(address) as connection:
        connection.sendall(QUESTION)
        answer = b""
        while b'"models"' not in answer:
            answer += connection.recv(1000)
        connection.sendall(QUESTION[:-2])
        assert is_closed(connection)


def test_who_waits_for_an_answer_is_not_closed(address: str, engine: GatedEngine) -> None:
    engine.gate.clear()
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(
            httpx.post, f"{address}/predict", files=form(picture()), timeout=600
        )
        while not engine.batches:
            assert not answer.done()
        with connect(address) as later:
            assert is_closed(later)
        engine.gate.set()
        assert answer.result().status_code == 200
