"""The application: which path answers what."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

import saccade
from saccade.serve.documentation import CONTENT_POLICY, documentation
from saccade.serve.metrics import Metrics
from saccade.serve.middleware import SECURITY, Guarded, refused
from saccade.serve.refusals import Refusal
from saccade.serve.schemas import (
    IMAGE_BODY,
    Health,
    LookQuery,
    ModelInfo,
    PixelQuery,
    Prediction,
    PredictQuery,
    problems,
)
from saccade.serve.served import Look, LookFromPixel, Served
from saccade.serve.service import Service
from saccade.serve.settings import Access, Limits

VIEWER = Path(__file__).parent / "viewer"

_GUARDED = (401, 403, 421)
_IMAGE = (400, *_GUARDED, 404, 408, 413, 415, 422, 429, 504)


@dataclass
class State:
    """What becomes of the server."""

    draining: bool = False
    """Whether it is about to end, and balancers should send requests elsewhere."""


def create_app(
    models: Sequence[Served],
    limits: Limits | None = None,
    access: Access | None = None,
    look: Look | None = None,
    look_from_pixel: LookFromPixel | None = None,
) -> FastAPI:
    """The server's application, for uvicorn or another ASGI server.

    Args:
        models: What is served; requests that name none get the first.
        limits: How much is taken on.
        access: Who may ask.
        look: Tells where the queries of a detector looked in an image; see
            `saccade.analysis.sampling_points`.
        look_from_pixel: Tells where its encoder looks from a pixel.

    Returns:
        The application; ``app.state.server`` is its `State`, ``app.state.metrics`` its `Metrics`.
    """
    metrics = Metrics()
    service = Service(models, limits or Limits(), metrics, look, look_from_pixel)

    app = FastAPI(
        title="saccade",
        version=saccade.__version__,
        summary="Detectors that look at a few sampled points.",
        docs_url=None,
        redoc_url=None,
    )
    app.state.server = State()
    app.state.metrics = metrics
    app.add_middleware(Guarded, access=access or Access(), metrics=metrics)
    _add_questions(app, service)
    _add_pages(app, service)
    _add_problems(app, metrics)
    return app


def _add_questions(app: FastAPI, service: Service) -> None:
    @app.get("/models", responses=problems(*_GUARDED))
    async def models() -> list[ModelInfo]:
        """What is served, the default first."""
        return [ModelInfo(**each) for each in service.describe()]

    @app.post(
        "/predict",
        response_model=Prediction,
        responses=problems(*_IMAGE),
        openapi_extra=IMAGE_BODY,
    )
    async def predict(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
        """Find objects in an image."""
        served = service.model(query.model)
        return _json(await service.predict(request, served, query.threshold, query.top_k))

    @app.post(
        "/look",
        response_model=dict[str, Any],
        responses=problems(*_IMAGE, 409),
        openapi_extra=IMAGE_BODY,
    )
    async def look(request: Request, query: Annotated[LookQuery, Query()]) -> Response:
        """Where the queries of the best detections looked, in every decoder layer."""
        return _json(await service.look(request, service.model(query.model), query.top_k))

    @app.post(
        "/look/pixel",
        response_model=dict[str, Any],
        responses=problems(*_IMAGE, 409),
        openapi_extra=IMAGE_BODY,
    )
    async def look_from_pixel(request: Request, query: Annotated[PixelQuery, Query()]) -> Response:
        """Where the encoder's tokens at a pixel look, in every encoder layer."""
        served = service.model(query.model)
        return _json(await service.look_from_pixel(request, served, query.x, query.y))


def _add_pages(app: FastAPI, service: Service) -> None:
    @app.get(
        "/health",
        response_model=Health,
        responses={
            **problems(403, 421),
            503: {"model": Health, "description": "The server is about to end."},
        },
    )
    async def health() -> Response:
        """200 while requests are answered, 503 before the server ends."""
        draining = app.state.server.draining
        status = Health(status="draining" if draining else "ok", models=list(service.models))
        return JSONResponse(status.model_dump(), 503 if draining else 200)

    @app.get("/metrics", response_class=Response, responses=problems(*_GUARDED))
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(app.state.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        headers = {"Content-Security-Policy": CONTENT_POLICY}
        return HTMLResponse(documentation(app.openapi()), headers=headers)

    @app.get("/", include_in_schema=False)
    async def viewer() -> FileResponse:
        return FileResponse(VIEWER / "index.html")

    app.mount("/viewer", StaticFiles(directory=VIEWER), name="viewer")


def _add_problems(app: FastAPI, metrics: Metrics) -> None:
    @app.exception_handler(Refusal)
    async def refuse(_: Request, refusal: Refusal) -> JSONResponse:
        return refused(refusal, metrics)

    @app.exception_handler(HTTPException)
    async def no_such_path(request: Request, error: HTTPException) -> JSONResponse:
        path = request.scope["path"][:80]
        sentences = {
            404: f"there is no {path} here: see /docs.",
            405: f"{path} does not take {request.method[:20]}: see /docs.",
        }
        detail = sentences.get(error.status_code, error.detail)
        return JSONResponse({"detail": detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def bad_option(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        option = str(first["loc"][-1])[:80]
        detail = f'the option "{option}" is not as expected ({first["msg"]}): see /docs.'
        return refused(Refusal(422, detail, "option"), metrics)

    @app.exception_handler(Exception)
    async def broken(_: Request, __: Exception) -> JSONResponse:
        # Outside of all middleware; the server's log has the traceback.
        return JSONResponse({"detail": "the server failed: see its log."}, 500, SECURITY)


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")
