"""Who may ask: the name in Host, the page a request comes from, the token."""

import hmac
from urllib.parse import urlsplit

from starlette.requests import Request

from saccade.serve.refusals import Refusal
from saccade.serve.settings import LOOPBACK, Access

OPEN = ("/", "/health", "/docs", "/openapi.json")
"""Paths that need no token, with the viewer's files: none tells anything about models or images,
and a browser could not show the page that asks for the token."""


def check(request: Request, access: Access) -> None:
    """Refuse whoever may not ask.

    A page of another site must not use the visitor's browser to reach a server on the visitor's
    machine: its requests name it in Origin, or, when its name has been pointed at this address
    (DNS rebinding), in Host.

    Raises:
        Refusal: If the request's name for this server, its origin or its token is not right.
    """
    host = request.headers.get("host", "")
    if access.hosts is not None and hostname(host) not in access.hosts:
        raise Refusal(
            421,
            f'this server is not known as "{host[:80]}": start it with --allowed-hosts to add a '
            "name.",
            "host",
        )
    if not _same_site(request, host, access):
        raise Refusal(403, "pages of other sites may not ask this server.", "origin")
    # Not request.url.path, which begins with whatever path Host has in it.
    if access.token is not None and not _is_open(request.scope["path"]):
        _check_token(request.headers.get("authorization", ""), access.token)


def hostname(host: str) -> str:
    """The name in a Host header, without its port; empty if it is none.

    >>> hostname("LOCALHOST:8000"), hostname("[::1]:8000"), hostname("a@localhost")
    ('localhost', '::1', '')
    """
    if "@" in host or "/" in host:
        return ""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _same_site(request: Request, host: str, access: Access) -> bool:
    if request.method in ("GET", "HEAD", "OPTIONS"):
        # Without CORS headers the other page cannot read the answer.
        return True
    origin = request.headers.get("origin")
    if origin is None:
        return request.headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    try:
        parts = urlsplit(origin)
        port, own = parts.port, urlsplit(f"{parts.scheme}://{host}")
        return bool(parts.hostname) and (
            (parts.hostname, port or _default(parts.scheme))
            == (own.hostname, own.port or _default(parts.scheme))
            or (access.hosts is not None and _listed(parts.hostname, access.hosts))
        )
    except ValueError:
        return False


def _listed(name: str | None, hosts: tuple[str, ...]) -> bool:
    # Any page on the machine itself, on another port, is another site's.
    return name in hosts and name not in LOOPBACK


def _default(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith("/viewer/")


def _check_token(authorization: str, token: str) -> None:
    scheme, _, given = authorization.partition(" ")
    right = hmac.compare_digest(given.strip().encode(), token.encode())
    if scheme.lower() != "bearer" or not right:
        refusal = Refusal(
            401, "the token is missing or wrong: send it as Authorization: Bearer TOKEN.", "token"
        )
        refusal.headers = {"WWW-Authenticate": "Bearer"}
        raise refusal
