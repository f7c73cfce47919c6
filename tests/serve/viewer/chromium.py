"""A real browser without a network: what the page asks for is answered by functions."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, Playwright, Request, Route, expect

ADDRESS = "http://localhost"
"""Of the server that functions stand for; browsers trust the name as they do https."""
NAMES = ("chromium", "chromium-browser", "google-chrome")

PATIENCE = 30_000
"""Milliseconds until a page that does not come to what is expected has failed."""

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""
Respond = Callable[[Request], Answer | None]


def find_chromium() -> str:
    """The browser of the system, or the one that the environment variable CHROMIUM names."""
    for name in (os.environ.get("CHROMIUM"), *NAMES):
        if name and (path := shutil.which(name)):
            return path
    raise FileNotFoundError(
        f"none of {', '.join(NAMES)} is on the PATH: install one (apt-get install chromium), or "
        "name it in the environment variable CHROMIUM."
    )


def launch(playwright: Playwright) -> Browser:
    """Start it."""
    # The sandbox refuses to run as root, as in containers; only our own pages are opened.
    return playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])


@dataclass
class Tab:
    """A page of the viewer, and what it asked for."""

    context: BrowserContext
    page: Page
    asked: list[str] = field(default_factory=list)
    """Paths and queries, in order."""
    strayed: list[str] = field(default_factory=list)
    """Addresses of other hosts."""
    complaints: list[str] = field(default_factory=list)
    """Errors of the console, and exceptions."""
    held: list[Route] = field(default_factory=list)
    """Questions that wait for their answer."""


def fulfil(route: Route, answer: Answer) -> None:
    """Answer a question."""
    status, headers, body = answer
    route.fulfill(status=status, headers=headers, body=body)


def open_tab(
    browser: Browser, address: str = ADDRESS, respond: Respond | None = None, **options: Any
) -> Tab:
    """Open the viewer.

    Args:
        browser: A running one.
        address: Of a server.
        respond: Answers in the place of a server; with None the question is held.
        options: As of a browser's context.
    """
    context = browser.new_context(**{"reduced_motion": "reduce", **options})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    tab = Tab(context, page)
    host = urlsplit(address).netloc

    def route(route: Route, request: Request) -> None:
        there = urlsplit(request.url)
        if there.netloc != host:
            tab.strayed.append(request.url)
            route.abort()
            return
        tab.asked.append(f"{there.path}?{there.query}".rstrip("?"))
        if respond is None:
            route.continue_()
            return
        given = respond(request)
        if given is None:
            tab.held.append(route)
            return
        fulfil(route, given)

    context.route("**/*", route)
    page.on("console", lambda line: line.type == "error" and tab.complaints.append(line.text))
    page.on("pageerror", lambda error: tab.complaints.append(str(error)))
    page.goto(address)
    return tab
