import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from uvicorn import Config

from saccade.serve.app import State, create_app
from saccade.serve.arguments import ServeArguments
from saccade.serve.pictures import decode
from saccade.serve.refusals import Refusal
from saccade.serve.served import Served
from saccade.serve.server import GracefulServer, run
from saccade.serve.settings import Limits
from tests.serve.asking import PATIENT, GatedEngine, form, picture
from tests.serve.test_pictures import png_of

ROOT = Path(__file__).parents[2]

GATED = """
import sys, threading
from saccade.serve.arguments import ServeArguments
from saccade.serve.command import serve
from saccade.serve.served import Served
from tests.serve.asking import GatedEngine

engine = GatedEngine()

def wait_for_a_line():
    engine.gate.clear()
    sys.stdin.readline()
    engine.gate.set()

def open_model(name, weights):
    return Served(name, engine)

import saccade.serve.warming
warm_up = saccade.serve.warming.warm_up
def then_wait(served):
    warm_up(served)
    threading.Thread(target=wait_for_a_line, daemon=True).start()
saccade.serve.warming.warm_up = then_wait

sys.exit(serve(ServeArguments(models=("gated=x",), port=0), open_model, None, None))
"""
"""A server whose detector runs when a line is written to it."""


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", GATED],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to it"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to send")
def test_a_server_that_is_asked_to_end_answers_what_it_accepted(
    process: subprocess.Popen[str],
) -> None:
    assert process.stdout is not None
    assert process.stdin is not None
    line = process.stdout.readline()
    assert line.startswith("saccade serve: gated at http://127.0.0.1:"), process.communicate()[1]
    url = line.split()[-1]

    def question(_: int) -> httpx.Response:
        return httpx.post(f"{url}/predict", files=form(picture()), timeout=60)

    def refused() -> bool:
        try:
            httpx.get(f"{url}/health")
        except httpx.ConnectError:
            return True
        return False

    with ThreadPoolExecutor(5) as threads:
        answers = [threads.submit(question, number) for number in range(5)]
        until(lambda: 'saccade_queue_images{model="gated"} 5.0' in httpx.get(f"{url}/metrics").text)
        process.send_signal(signal.SIGTERM)
        until(refused)
        assert not any(answer.done() for answer in answers)
        process.stdin.write("\n")
        process.stdin.flush()
        assert [answer.result().status_code for answer in answers] == [200] * 5
    assert process.wait(60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_what_was_accepted_before_the_signal_is_answered(engine: GatedEngine) -> None:
    app = create_app([Served("gated", engine)], PATIENT)
    server = GracefulServer(Config(app, log_level="warning"), app, drain=0.0)
    engine.gate.clear()
    with ThreadPoolExecutor(3) as threads, socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/predict"
        answers = [
            threads.submit(httpx.post, url, files=form(picture()), timeout=600) for _ in range(3)
        ]
        until(lambda: b'saccade_queue_images{model="gated"} 3.0' in app.state.metrics.text())
        server.handle_exit(signal.SIGTERM, None)
        until(lambda: server.should_exit and not server.servers[0].is_serving())
        assert not any(answer.done() for answer in answers)
        engine.gate.set()
        assert [answer.result().status_code for answer in answers] == [200] * 3
        thread.join()


def test_a_server_drains_before_it_stops_listening_unless_told_twice() -> None:
    app = FastAPI()
    app.state.server = State()
    server = GracefulServer(Config(app), app, drain=1000.0)
    server.handle_exit(signal.SIGTERM, None)
    assert app.state.server.draining
    assert not server.should_exit
    server.handle_exit(signal.SIGINT, None)
    assert server.should_exit
    assert not server.force_exit
    server.handle_exit(signal.SIGINT, None)
    assert server.force_exit


@pytest.mark.parametrize(("megapixels", "status"), [(200.0, 422), (120.0, 422), (99.0, 413)])
def test_pillow_has_the_servers_own_limit(
    monkeypatch: pytest.MonkeyPatch, megapixels: float, status: int
) -> None:
    statuses = []

    def read_an_image(*_: Any, **__: Any) -> None:
        with pytest.raises(Refusal) as refusal:
            decode(png_of(10_000, 10_000), megapixels)
        statuses.append(refusal.value.status_code)

    monkeypatch.setattr(GracefulServer, "run", read_an_image)
    app = FastAPI()
    app.state.server = State()
    limits = Limits(max_megapixels=megapixels)
    with socket.socket() as listener:
        run(app, listener, ServeArguments(limits=limits))
    # The file breaks off behind its header.
    assert statuses == [status]
