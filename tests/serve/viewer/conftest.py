import io
from collections.abc import Callable, Iterator

import pytest
from PIL import Image
from playwright.sync_api import Browser, FilePayload, sync_playwright

from tests.serve.viewer.canned import respond
from tests.serve.viewer.chromium import Tab, launch, open_tab


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture
def viewer(browser: Browser) -> Iterator[Callable[..., Tab]]:
    """Opens the viewer before canned answers; afterwards nothing has gone wrong unseen."""
    tabs: list[Tab] = []

    def open_viewer(**options: object) -> Tab:
        tabs.append(open_tab(browser, **{"respond": respond, **options}))
        return tabs[-1]

    yield open_viewer
    for tab in tabs:
        tab.context.close()
        assert tab.strayed == []
        assert tab.complaints == []


@pytest.fixture(scope="session")
def photo() -> FilePayload:
    """A white image of 200 x 100 pixels."""
    content = io.BytesIO()
    Image.new("RGB", (200, 100), "white").save(content, "png")
    return FilePayload(name="photo.png", mimeType="image/png", buffer=content.getvalue())
