"""Around every request: guards, security headers, and the metrics."""

import time
from collections.abc import Awaitable, Callable

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from saccade.serve.guards import check
from saccade.serve.metrics import Metrics
from saccade.serve.refusals import Refusal
from saccade.serve.settings import Access

SECURITY = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Nothing from outside is loaded, and no other site shows or reads what this one answers."""


class Guarded:
    """Lets in whoever may ask; an ASGI application around another."""

    def __init__(self, app: ASGIApp, access: Access, metrics: Metrics) -> None:
        self._app = app
        self._access = access
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            # The same without the content, which the server leaves out.
            scope = {**scope, "method": "GET"}
        answer = _Answer(send)
        start = time.perf_counter()
        try:
            try:
                check(Request(scope), self._access)
            except Refusal as refusal:
                await refused(refusal, self._metrics)(scope, receive, answer.send)
            else:
                await self._app(scope, receive, answer.send)
        finally:
            path = _known_path(scope)
            self._metrics.requests.labels(path, str(answer.status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - start)


def refused(refusal: Refusal, metrics: Metrics) -> JSONResponse:
    """What whoever is refused receives; counted."""
    metrics.rejected.labels(refusal.reason).inc()
    return JSONResponse({"detail": refusal.detail}, refusal.status_code, refusal.headers)


class _Answer:
    """Notes the status of what is sent, and adds headers."""

    def __init__(self, send: Callable[[Message], Awaitable[None]]) -> None:
        self._send = send
        self.status = 500
        """What the server answers if the application breaks off."""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY.items():
                headers.setdefault(name, value)
            # What is asked about an image is nobody else's; the viewer's files are checked anew.
            headers.setdefault("Cache-Control", "no-cache" if "etag" in headers else "no-store")
        await self._send(message)


def _known_path(scope: Scope) -> str:
    """The path if there is such a route: strangers must not invent labels."""
    if isinstance(scope.get("endpoint"), StaticFiles):
        return "/viewer"
    return getattr(scope.get("route"), "path", None) or "other"
