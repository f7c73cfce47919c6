"""The viewer when answers are late, or what is shown changes under what is chosen."""

from collections.abc import Callable

import pytest
from playwright.sync_api import FilePayload, Page, Request, expect

from tests.serve.viewer.canned import answer, look, respond
from tests.serve.viewer.chromium import Answer, Tab, fulfil
from tests.serve.viewer.test_page import COLOUR, click_at, show

SETTLED = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def look_from(page: Page, x: int, y: int) -> None:
    page.locator("#pixel-x").fill(str(x))
    page.locator("#pixel-y").fill(str(y))
    page.keyboard.press("Enter")


def hold_a_pixel(request: Request) -> Answer | None:
    return None if "/look/pixel" in request.url and "x=10&" in request.url else respond(request)


def test_of_two_pixels_the_later_is_shown(viewer: Callable[..., Tab], photo: FilePayload) -> None:
    page = viewer(respond=hold_a_pixel).page
    show(page, photo)
    with page.expect_event("requestfailed") as given_up:
        look_from(page, 10, 5)
        look_from(page, 20, 5)
    assert "x=10&" in given_up.value.url
    expect(page.locator("#explanation h2")).to_have_text("Pixel 20, 5")
    expect(page.locator("figcaption")).to_have_text("first 3 objects")


def test_an_object_that_is_opened_ends_the_question_about_a_pixel(
    viewer: Callable[..., Tab], photo: FilePayload
) -> None:
    page = viewer(respond=hold_a_pixel).page
    canvas = show(page, photo)
    with page.expect_event("requestfailed"):
        look_from(page, 10, 5)
        expect(page.locator("figcaption")).to_have_text("first looking …")
        click_at(canvas, 30, 50)
    expect(page.locator("#explanation h2")).to_have_text("cat 0.90")
    expect(page.locator("figcaption")).to_have_text("first 3 objects")


def test_of_two_images_the_later_is_shown(viewer: Callable[..., Tab], photo: FilePayload) -> None:
    tab = viewer()
    page = tab.page
    expect(page.locator("#model option")).to_have_count(3)
    page.evaluate("""() => {
      const decode = createImageBitmap;
      window.createImageBitmap = async (file, ...options) => {
        const bitmap = await decode(file, ...options);
        if (file.name === 'slow.png') await new Promise((done) => { window.goOn = done; });
        return bitmap;
      };
    }""")
    page.set_input_files("#file", {**photo, "name": "slow.png"})
    page.evaluate("""async () => {
      while (!window.goOn) await new Promise(requestAnimationFrame);
    }""")
    canvas = show(page, photo)
    asked = list(tab.asked)
    page.evaluate("() => window.goOn()")
    page.evaluate(SETTLED)
    expect(canvas).to_have_attribute("aria-label", "photo.png with what first finds")
    assert tab.asked == asked


def test_a_model_that_answers_late_opens_what_is_open(
    viewer: Callable[..., Tab], photo: FilePayload
) -> None:
    def hold_the_second(request: Request) -> Answer | None:
        return None if "/look?model=second" in request.url else respond(request)

    tab = viewer(respond=hold_the_second)
    tab.page.select_option("#compare", "second")
    left = show(tab.page, photo)
    right = tab.page.locator(".stage canvas").last
    click_at(left, 30, 50)
    expect(left).to_have_attribute("data-opened", "0")
    fulfil(tab.held[0], answer(look(dense=True)))
    expect(right).to_have_attribute("data-opened", "0")


def test_a_busy_server_is_asked_again(viewer: Callable[..., Tab], photo: FilePayload) -> None:
    refused: list[str] = []

    def busy(request: Request) -> Answer:
        if "/look" not in request.url or len(refused) == 2:
            return respond(request)
        refused.append(request.url)
        status, headers, body = answer({"detail": "try again."}, 429)
        return status, {**headers, "retry-after": "0"}, body

    tab = viewer(respond=busy)
    show(tab.page, photo)
    assert len(refused) == 2
    # Chromium itself writes down every answer that refuses.
    tab.complaints.clear()


@pytest.mark.slow
def test_a_server_that_stays_busy_is_left_alone(
    viewer: Callable[..., Tab], photo: FilePayload
) -> None:
    def busy(request: Request) -> Answer:
        if "/look" not in request.url:
            return respond(request)
        status, headers, body = answer({"detail": "try again."}, 429)
        return status, {**headers, "retry-after": "60"}, body

    tab = viewer(respond=busy)
    tab.page.set_input_files("#file", photo)
    expect(tab.page.locator("figcaption")).to_have_text("first try again.")
    assert sum("/look" in each for each in tab.asked) == 1
    tab.complaints.clear()


def test_what_another_model_does_not_have_is_not_hidden_or_darkened(
    viewer: Callable[..., Tab], photo: FilePayload
) -> None:
    page = viewer().page
    canvas = show(page, photo)
    page.locator("#proposals").check()
    click_at(canvas, 30, 50)
    page.locator("#levels input").first.uncheck()
    expect(canvas).to_have_attribute("data-points", "2")
    # Of the second model, which has neither proposals nor levels.
    page.select_option("#model", "second")
    expect(canvas).to_have_attribute("data-objects", "1")
    page.evaluate(SETTLED)
    assert canvas.evaluate(COLOUR, [150, 10]) == [255, 255, 255]
    click_at(canvas, 30, 50)
    expect(canvas).to_have_attribute("data-points", "5")


def test_the_last_pixel_of_the_image_can_be_clicked(
    viewer: Callable[..., Tab], photo: FilePayload
) -> None:
    tab = viewer()
    canvas = show(tab.page, photo)
    # Almost at its right edge, as where the canvas does not begin on a whole pixel.
    canvas.evaluate("""(canvas) => {
      canvas.getBoundingClientRect = () => ({ left: 0.1, top: 0, width: 800, height: 400 });
      canvas.dispatchEvent(new MouseEvent('click', { clientX: 800, clientY: 20 }));
    }""")
    expect(tab.page.locator("#explanation h2")).to_contain_text("Pixel 199")
    assert "x=199.9&" in tab.asked[-1]


@pytest.mark.slow
def test_a_model_that_cannot_look_from_a_pixel_does_not_offer_it(
    viewer: Callable[..., Tab], photo: FilePayload
) -> None:
    page = viewer().page
    show(page, photo)
    expect(page.locator("#pixel-card")).to_be_visible()
    page.select_option("#model", "exported")
    expect(page.locator("#pixel-card")).to_be_hidden()
