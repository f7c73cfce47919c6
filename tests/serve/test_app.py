import asyncio
import base64
import json
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import saccade
from saccade.serve.app import create_app
from saccade.serve.served import Served
from saccade.serve.settings import Limits
from tests.serve.asking import PATIENT, GatedEngine, ask, client_of, form, picture, until

EXAMPLE = Path(__file__).parents[2] / "examples/blood-cells"
PHOTO = EXAMPLE / "test/BloodImage_00007.jpg"


@pytest.fixture(scope="module")
def nano() -> saccade.Detector:
    return saccade.Detector.from_pretrained(EXAMPLE / "nano")


async def _posted(client: httpx.AsyncClient, url: str = "/predict", **parts: Any) -> httpx.Response:
    return await client.post(url, **(parts or {"files": form(picture())}))


def test_what_is_found_is_what_the_detector_predicts(nano: saccade.Detector) -> None:
    app = create_app([Served("nano", nano.engine, nano)], PATIENT)
    text = base64.b64encode(PHOTO.read_bytes()).decode()

    async def run() -> list[httpx.Response]:
        async with client_of(app) as client:
            by_form = await _posted(client, "/predict?top_k=7", files=form(PHOTO.read_bytes()))
            by_json = await _posted(client, "/predict?threshold=0.8", json={"image": text})
            return [by_form, by_json, await client.get("/models")]

    by_form, by_json, models = asyncio.run(run())
    expected = nano.predict(PHOTO, threshold=0.3, top_k=7)
    answer = by_form.json()
    assert answer["model"] == "nano"
    assert answer["image"] == {"width": 640, "height": 480}
    found = answer["detections"]
    assert [each["class"] for each in found] == expected.data["class_name"].tolist()
    assert [each["label"] for each in found] == expected.class_id.tolist()
    scores, boxes = ([each[key] for each in found] for key in ("score", "box"))
    torch.testing.assert_close(
        torch.tensor(scores), torch.from_numpy(expected.confidence), rtol=0, atol=2e-4
    )
    torch.testing.assert_close(
        torch.tensor(boxes), torch.from_numpy(expected.xyxy), rtol=0, atol=0.05
    )
    sure = by_json.json()["detections"]
    assert sure
    assert min(each["score"] for each in sure) >= 0.8
    assert models.json() == [
        {
            "name": "nano",
            "class_names": ["RBC", "WBC", "Platelets"],
            "threshold": 0.3,
            "explains": False,
        }
    ]


def test_a_request_may_name_its_model(engine: GatedEngine) -> None:
    app = create_app([Served("first", engine), Served("second", GatedEngine())], PATIENT)

    async def run() -> tuple[list[str], httpx.Response]:
        async with client_of(app) as client:
            urls = ["/predict", "/predict?model=second"]
            answers = [await _posted(client, url) for url in urls]
            unknown = await _posted(client, "/predict?model=third")
            return [answer.json()["model"] for answer in answers], unknown

    names, unknown = asyncio.run(run())
    assert names == ["first", "second"]
    assert unknown.status_code == 404
    assert unknown.json() == {"detail": 'there is no model "third": expected one of first, second.'}


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("/predict?threshold=1.1", 'option "threshold" is not as expected'),
        ("/predict?threshold=nan", 'option "threshold"'),
        ("/predict?top_k=0", 'option "top_k"'),
        ("/predict?tresholt=0.4", 'option "tresholt"'),
        ("/look?top_k=301", 'option "top_k"'),
        ("/look/pixel?x=3", 'option "y"'),
        ("/look/pixel?x=inf&y=3", 'option "x"'),
    ],
)
def test_options_are_checked(engine: GatedEngine, url: str, sentence: str) -> None:
    answer = ask(engine, lambda client: _posted(client, url))
    assert answer.status_code == 422
    assert sentence in answer.json()["detail"]
    assert not engine.batches


def test_no_image_is_run_of_a_body_without_one(engine: GatedEngine) -> None:
    bodies: list[dict[str, Any]] = [
        {"files": form(b"no image")},
        {"files": {"photo": b"x"}},
        {"json": {"image": "%"}},
        {"content": b"x"},
        {"files": form(picture()), "headers": {"Content-Encoding": "gzip"}},
    ]

    async def questions(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await _posted(client, **body) for body in bodies]

    answers = ask(engine, questions)
    assert [answer.status_code for answer in answers] == [422, 400, 400, 415, 415]
    assert all(list(answer.json()) == ["detail"] for answer in answers)
    assert not engine.batches


def test_a_full_queue_is_429_and_then_there_is_room_again(engine: GatedEngine) -> None:
    async def questions(client: httpx.AsyncClient) -> None:
        engine.gate.clear()
        first = asyncio.ensure_future(_posted(client))
        await until(lambda: bool(engine.batches))
        second = await _posted(client)
        assert second.status_code == 429
        assert int(second.headers["Retry-After"]) in range(1, 61)
        assert "images wait for small already" in second.json()["detail"]
        engine.gate.set()
        assert (await first).status_code == 200
        assert (await _posted(client)).status_code == 200

    ask(engine, questions, replace(PATIENT, queue=1))


def test_an_answer_that_takes_too_long_is_504(engine: GatedEngine) -> None:
    async def questions(client: httpx.AsyncClient) -> None:
        engine.gate.clear()
        answer = await _posted(client)
        assert answer.status_code == 504
        assert answer.json()["detail"] == "there was no answer within 0.05 s: try again later."
        engine.gate.set()

    ask(engine, questions, Limits(timeout=0.05))


def test_a_client_that_has_gone_is_not_computed(engine: GatedEngine) -> None:
    app = create_app([Served("small", engine)], replace(PATIENT, max_wait=0.0))
    request = httpx.Request("POST", "http://localhost/predict", files=form(picture()))
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "query_string": b"",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
    }

    async def run() -> None:
        engine.gate.clear()
        async with client_of(app) as client:
            running = asyncio.ensure_future(_posted(client))
            await until(lambda: bool(engine.batches))
            gone = asyncio.Event()
            messages = [{"type": "http.request", "body": request.read(), "more_body": False}]

            async def receive() -> Any:
                if messages:
                    return messages.pop()
                await gone.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                pass

            leaving = asyncio.ensure_future(app(scope, receive, send))
            await until(lambda: b'saccade_queue_images{model="small"} 2.0' in figures())
            gone.set()
            await leaving
            assert b'saccade_queue_images{model="small"} 1.0' in figures()
            engine.gate.set()
            assert (await running).status_code == 200
            assert (await _posted(client)).status_code == 200

    def figures() -> bytes:
        return app.state.metrics.text()

    asyncio.run(run())
    assert engine.batches == [1, 1]
    assert b'saccade_requests_total{path="/predict",status="499"} 1.0' in figures()
    assert b'saccade_rejected_total{reason="gone"} 1.0' in figures()


def test_where_a_detector_looked_comes_from_the_functions_that_are_handed_in(
    nano: saccade.Detector,
) -> None:
    def look(detector: saccade.Detector, image: torch.Tensor, top_k: int) -> dict[str, Any]:
        return {"same": detector is nano, "shape": list(image.shape), "top_k": top_k}

    def look_from_pixel(
        detector: saccade.Detector, image: torch.Tensor, x: float, y: float
    ) -> dict[str, Any]:
        raise ValueError(f"the pixel ({x:g}, {y:g}) lies outside.")

    models = [Served("nano", nano.engine, nano), Served("exported", nano.engine)]
    app = create_app(models, PATIENT, look=look, look_from_pixel=look_from_pixel)

    async def run() -> list[httpx.Response]:
        async with client_of(app) as client:
            urls = ["/look?top_k=5", "/look/pixel?x=99&y=2", "/look?model=exported"]
            answers = [await _posted(client, url) for url in urls]
            return [*answers, await client.get("/models")]

    seen, outside, exported, listed = asyncio.run(run())
    assert seen.json() == {"same": True, "shape": [3, 40, 60], "top_k": 5}
    assert (outside.status_code, outside.json()["detail"]) == (
        422,
        "the pixel (99, 2) lies outside.",
    )
    assert exported.status_code == 409
    assert "--runtime torch" in exported.json()["detail"]
    assert [each["explains"] for each in listed.json()] == [True, False]


def test_numbers_that_are_none_are_the_servers_fault(nano: saccade.Detector) -> None:
    def look(detector: saccade.Detector, image: torch.Tensor, top_k: int) -> dict[str, Any]:
        return {"weight": float("nan")}

    app = create_app([Served("nano", nano.engine, nano)], PATIENT, look=look)

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await _posted(client, "/look")

    assert asyncio.run(run()).status_code == 500


def test_looks_have_a_limit_of_their_own(nano: saccade.Detector) -> None:
    gate = threading.Event()
    started = threading.Event()

    def look(detector: saccade.Detector, image: torch.Tensor, top_k: int) -> dict[str, Any]:
        started.set()
        assert gate.wait(600)
        return {}

    app = create_app([Served("nano", nano.engine, nano)], replace(PATIENT, max_looks=1), look=look)

    async def run() -> None:
        async with client_of(app) as client:
            first = asyncio.ensure_future(_posted(client, "/look"))
            await until(started.is_set)
            second = await _posted(client, "/look")
            assert (second.status_code, second.headers["Retry-After"]) == (429, "1")
            gate.set()
            assert (await first).status_code == 200
            assert (await _posted(client, "/look")).status_code == 200

    asyncio.run(run())


def test_health_says_that_the_server_is_about_to_end(engine: GatedEngine) -> None:
    app = create_app([Served("small", engine)], PATIENT)

    async def run() -> list[httpx.Response]:
        async with client_of(app) as client:
            before = await client.get("/health")
            app.state.server.draining = True
            return [before, await client.get("/health"), await _posted(client)]

    before, draining, still_answered = asyncio.run(run())
    assert (before.status_code, before.json()) == (200, {"status": "ok", "models": ["small"]})
    assert (draining.status_code, draining.json()["status"]) == (503, "draining")
    assert still_answered.status_code == 200


def test_metrics_count_requests_batches_and_refusals(engine: GatedEngine) -> None:
    async def questions(client: httpx.AsyncClient) -> str:
        await _posted(client)
        await _posted(client, files=form(b"no image"))
        await client.get("/made/up/by/a/stranger")
        await client.get("/viewer/../../settings.py")
        return (await client.get("/metrics")).text

    text = ask(engine, questions)
    for line in (
        'saccade_requests_total{path="/predict",status="200"} 1.0',
        'saccade_requests_total{path="/predict",status="422"} 1.0',
        'saccade_rejected_total{reason="image"} 1.0',
        'saccade_batch_images_count{model="small"} 1.0',
        'saccade_queue_images{model="small"} 0.0',
        "saccade_upload_bytes 0.0",
        'saccade_request_seconds_count{path="/predict"} 2.0',
    ):
        assert line in text
    assert "stranger" not in text


def test_a_detector_that_fails_is_a_500_that_tells_nothing(engine: GatedEngine) -> None:
    engine.failure = RuntimeError("secret path")
    app = create_app([Served("small", engine)], PATIENT)

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await _posted(client)

    answer = asyncio.run(run())
    assert answer.status_code == 500
    assert answer.json() == {"detail": "the server failed: see its log."}
    assert b'path="/predict",status="500"' in app.state.metrics.text()


def test_pages_load_nothing_from_outside_and_no_site_may_frame_them(engine: GatedEngine) -> None:
    async def questions(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.get(url) for url in ("/", "/docs", "/openapi.json", "/models")]

    page, docs, described, models = ask(engine, questions)
    for answer in (page, docs, described, models):
        assert answer.status_code == 200
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert models.headers["Cache-Control"] == "no-store"
    assert page.headers["Cache-Control"] == "no-cache"
    for text in (page.text, docs.text):
        assert not re.search(r"""(src|href|url\()\s*=?\s*["']?(https?:)?//""", text)
    assert "<script" not in docs.text
    for path in json.loads(described.text)["paths"]:
        assert path in docs.text


def test_paths_and_methods_that_are_not_there_are_explained(engine: GatedEngine) -> None:
    async def questions(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.get("/nope"), await client.get("/predict")]

    nowhere, wrong = ask(engine, questions)
    assert (nowhere.status_code, nowhere.json()["detail"]) == (
        404,
        "there is no /nope here: see /docs.",
    )
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")


def test_head_is_answered_as_get_without_the_content(engine: GatedEngine) -> None:
    paths = ("/", "/health", "/docs", "/viewer/main.js", "/metrics")

    async def questions(client: httpx.AsyncClient) -> list[httpx.Response]:
        heads = [await client.head(path) for path in paths]
        return [*heads, await client.get("/"), await client.head("/predict")]

    *heads, whole, wrong = ask(engine, questions)
    assert [head.status_code for head in heads] == [200] * len(paths)
    assert heads[0].headers["Content-Length"] == whole.headers["Content-Length"]
    assert wrong.status_code == 405
