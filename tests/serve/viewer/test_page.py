"""The viewer in a real browser, before a server that gives canned answers."""

from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import FilePayload, Locator, Page, Request, expect

from tests.serve.viewer.canned import NAMES, answer, respond
from tests.serve.viewer.chromium import Answer, Tab

DROP = """([name, bytes]) => {
  const carried = new DataTransfer();
  carried.items.add(new File([new Uint8Array(bytes)], name, {type: 'image/png'}));
  const kind = {bubbles: true, cancelable: true};
  for (const type of ['dragover', 'drop'])
    document.body.dispatchEvent(new DragEvent(type, {...kind, dataTransfer: carried}));
}"""
PASTE = """([name, bytes]) => {
  const carried = new DataTransfer();
  carried.items.add(new File([new Uint8Array(bytes)], name, {type: 'image/png'}));
  document.body.dispatchEvent(new ClipboardEvent('paste', {bubbles: true, clipboardData: carried}));
}"""
COLOUR = """(canvas, [x, y]) => {
  const [column, row] = [x * canvas.width / 200, y * canvas.height / 100].map(Math.round);
  return [...canvas.getContext('2d').getImageData(column, row, 1, 1).data].slice(0, 3);
}"""


def show(page: Page, photo: FilePayload, number: int = 3) -> Locator:
    """Choose the image and wait until objects are there; its (first) canvas."""
    page.set_input_files("#file", photo)
    canvas = page.locator("canvas[data-objects]").first
    expect(canvas).to_have_attribute("data-objects", str(number))
    return canvas


def click_at(canvas: Locator, x: float, y: float) -> None:
    """Click a pixel of the image."""
    frame = canvas.bounding_box()
    assert frame
    scale = frame["width"] / 200
    canvas.click(position={"x": x * scale, "y": y * scale})


@pytest.mark.parametrize("way", [DROP, pytest.param(PASTE, marks=pytest.mark.slow)])
def test_an_image_is_dropped_or_pasted(
    viewer: Callable[..., Tab], photo: FilePayload, way: str
) -> None:
    tab = viewer()
    expect(tab.page.locator("#model option")).to_have_count(3)
    tab.page.evaluate(way, [photo["name"], list(photo["buffer"])])
    canvas = tab.page.locator(".stage canvas")
    expect(canvas).to_have_attribute("data-objects", "3")
    expect(canvas).to_have_attribute("aria-label", "photo.png with what first finds")
    assert tab.asked[-1] == "/look?model=first&top_k=100"


def test_threshold_and_classes_filter_without_asking_again(
    viewer: Callable[..., Tab], photo: FilePayload
) -> None:
    tab = viewer()
    canvas = show(tab.page, photo)
    asked = list(tab.asked)
    expect(tab.page.locator("#classes label:visible")).to_have_text([r"cat2", f"{NAMES[1]}1"])
    inside = [20, 50]
    assert canvas.evaluate(COLOUR, inside) == [209, 16, 90]
    tab.page.locator("#threshold").fill("0.7")
    expect(canvas).to_have_attribute("data-objects", "1")
    expect(tab.page.locator("[role=option]:visible")).to_have_text(["cat 0.90"])
    tab.page.locator("#threshold").fill("0")
    expect(canvas).to_have_attribute("data-objects", "4")
    tab.page.get_by_label("cat").uncheck()
    expect(canvas).to_have_attribute("data-objects", "1")
    expect(tab.page.locator("#status")).to_have_text("1 object shown, score from 0.00.")
    assert canvas.evaluate(COLOUR, inside) == [255, 255, 255]
    assert tab.asked == asked


def test_a_clicked_box_shows_its_points_layer_by_layer(
    viewer: Callable[..., Tab], photo: FilePayload
) -> None:
    page = viewer().page
    canvas = show(page, photo)
    click_at(canvas, 30, 50)
    expect(canvas).to_have_attribute("data-opened", "0")
    expect(canvas).to_have_attribute("data-layer", "2")
    expect(canvas).to_have_attribute("data-points", "5")
    expect(page.locator("#explanation h2")).to_have_text("cat 0.90")
    expect(page.locator("#tables tbody tr")).to_have_text(["10.45590 %", "20.90590 %"])
    # A point of two fifths of the largest weight; around it the image is darkened.
    assert canvas.evaluate(COLOUR, [58, 50]) == [220, 84, 113]
    assert max(canvas.evaluate(COLOUR, [150, 20])) < 130
    page.locator("#layer").press("ArrowLeft")
    expect(canvas).to_have_attribute("data-layer", "1")
    page.locator("#levels input").first.uncheck()
    expect(canvas).to_have_attribute("data-points", "2")
    page.select_option("#head", "0")
    expect(canvas).to_have_attribute("data-points", "1")
    page.locator("#close").click()
    expect(page.locator("#explanation")).to_be_hidden()


@pytest.mark.slow
def test_the_smaller_of_two_boxes_can_be_clicked(
    viewer: Callable[..., Tab], photo: FilePayload
) -> None:
    canvas = show(viewer().page, photo)
    click_at(canvas, 50, 50)
    expect(canvas).to_have_attribute("data-opened", "2")


def test_play_goes_through_the_layers(viewer: Callable[..., Tab], photo: FilePayload) -> None:
    page = viewer(reduced_motion="no-preference").page
    page.clock.install()
    canvas = show(page, photo)
    click_at(canvas, 30, 50)
    page.locator("#play").click()
    expect(canvas).to_have_attribute("data-layer", "1")
    page.clock.run_for(1000)
    expect(canvas).to_have_attribute("data-layer", "2")
    expect(page.locator("#play")).to_have_text("Play")


def test_the_keyboard_reaches_everything(viewer: Callable[..., Tab], photo: FilePayload) -> None:
    page = viewer().page
    canvas = show(page, photo)
    page.locator("#proposals").focus()
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    expect(canvas).to_have_attribute("data-pointed", "1")
    page.keyboard.press("Enter")
    expect(canvas).to_have_attribute("data-opened", "1")
    expect(page.locator("#status")).to_contain_text("Layer 2 of 2: 5 points.")
    page.keyboard.press("ArrowLeft")
    expect(canvas).to_have_attribute("data-layer", "1")
    page.keyboard.press("Escape")
    expect(page.locator("#explanation")).to_be_hidden()
    page.keyboard.press("Tab")
    page.keyboard.type("150")
    page.keyboard.press("Tab")
    page.keyboard.type("10")
    page.keyboard.press("Enter")
    expect(page.locator("#explanation h2")).to_have_text("Pixel 150, 10")


@pytest.mark.slow
def test_the_button_opens_the_choice_of_files(viewer: Callable[..., Tab]) -> None:
    page = viewer().page
    page.evaluate("""document.getElementById('file').addEventListener('click', (event) => {
      event.preventDefault();
      document.title = 'choosing';
    })""")
    page.locator("#choose").focus()
    page.keyboard.press("Enter")
    expect(page).to_have_title("choosing")


def test_a_pixel_shows_where_the_encoder_looks(
    viewer: Callable[..., Tab], photo: FilePayload
) -> None:
    tab = viewer()
    canvas = show(tab.page, photo)
    click_at(canvas, 100, 10)
    expect(canvas).to_have_attribute("data-points", "10")
    tab.page.select_option("#token-level", "1")
    expect(canvas).to_have_attribute("data-points", "5")
    query = parse_qs(urlsplit(tab.asked[-1]).query)
    assert float(query["x"][0]) == pytest.approx(100, abs=1)
    assert float(query["y"][0]) == pytest.approx(10, abs=1)


def test_two_models_side_by_side(viewer: Callable[..., Tab], photo: FilePayload) -> None:
    tab = viewer()
    show(tab.page, photo)
    tab.page.select_option("#compare", "second")
    left, right = tab.page.locator(".stage canvas").all()
    expect(right).to_have_attribute("data-objects", "1")
    click_at(left, 30, 50)
    expect(right).to_have_attribute("data-opened", "0")
    # The shallower model stays at its last layer.
    expect(left).to_have_attribute("data-layer", "2")
    expect(right).to_have_attribute("data-layer", "1")
    expect(tab.page.locator("#tables table")).to_have_count(2)
    click_at(left, 150, 60)
    expect(right).to_have_attribute("data-opened", "")
    expect(tab.page.locator("figcaption").last).to_contain_text("none of them there")
    tab.page.locator("#threshold").fill("0.85")
    expect(left).to_have_attribute("data-objects", "1")
    expect(right).to_have_attribute("data-objects", "0")


def test_the_proposals_are_drawn_when_asked_for(
    viewer: Callable[..., Tab], photo: FilePayload
) -> None:
    page = viewer().page
    canvas = show(page, photo)
    page.get_by_label("All 4 proposals").check()
    expect(page.locator("#status")).to_have_text("Proposals shown.")
    assert canvas.evaluate(COLOUR, [100, 10]) == [156, 157, 159]


@pytest.mark.slow
def test_an_engine_that_cannot_explain_shows_boxes(
    viewer: Callable[..., Tab], photo: FilePayload
) -> None:
    tab = viewer()
    tab.page.select_option("#model", "exported")
    canvas = show(tab.page, photo, 1)
    click_at(canvas, 30, 50)
    expect(tab.page.locator("#explanation-note")).to_contain_text("cannot say where it looked")
    assert tab.asked[-1] == "/predict?model=exported&threshold=0&top_k=100"


def test_errors_are_shown_as_the_sentence_they_carry(
    viewer: Callable[..., Tab], photo: FilePayload
) -> None:
    def refuse(request: Request) -> Answer:
        if "/look" in request.url:
            return answer({"detail": "the image is too large: <b>resize</b> it."}, 413)
        return respond(request)

    tab = viewer(respond=refuse)
    tab.page.set_input_files("#file", photo)
    expect(tab.page.locator("figcaption")).to_contain_text("too large: <b>resize</b> it.")
    expect(tab.page.locator("#status")).to_contain_text("too large")
    text = FilePayload(name="notes.txt", mimeType="text/plain", buffer=b"no image")
    tab.page.set_input_files("#file", text)
    expect(tab.page.locator("#problem")).to_contain_text("This browser cannot show notes.txt")
    # Chromium itself writes down every answer that refuses.
    assert len(tab.complaints) == 1
    tab.complaints.clear()


def test_a_token_is_asked_for_only_where_one_is_needed(
    viewer: Callable[..., Tab], photo: FilePayload
) -> None:
    def guarded(request: Request) -> Answer:
        is_file = "/viewer/" in request.url or request.url.endswith("/")
        if is_file or request.headers.get("authorization") == "Bearer secret":
            return respond(request)
        return answer({"detail": "say the token."}, 401)

    tab = viewer(respond=guarded)
    tab.page.get_by_label("This server asks for a token.").fill("secret")
    tab.page.keyboard.press("Enter")
    show(tab.page, photo)
    expect(tab.page.locator("#token-form")).to_be_hidden()
    tab.complaints.clear()


@pytest.mark.parametrize("beside", [pytest.param("", marks=pytest.mark.slow), "second"])
def test_nothing_is_wider_than_a_phone(
    viewer: Callable[..., Tab], photo: FilePayload, beside: str
) -> None:
    size = {"width": 390, "height": 844}
    page = viewer(viewport=size, device_scale_factor=2, has_touch=True, is_mobile=True).page
    canvas = show(page, photo)
    page.select_option("#compare", beside)
    click_at(canvas, 30, 50)
    expect(canvas).to_have_attribute("data-opened", "0")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    # As many pixels as the screen has.
    assert canvas.evaluate("canvas => canvas.width / canvas.clientWidth") == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(
    viewer: Callable[..., Tab], photo: FilePayload, scheme: str
) -> None:
    page = viewer(color_scheme=scheme).page
    canvas = show(page, photo)
    click_at(canvas, 30, 50)
    expect(page.locator("#explanation")).to_be_visible()
    colours = page.evaluate(
        """() => Object.fromEntries(['ground', 'card', 'text', 'quiet', 'bad', 'accent',
          'on-accent', 'soft'].map((name) => [name,
          getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()]))"""
    )
    assert (luminance(colours["ground"]) < 0.1) == (scheme == "dark")
    pairs = ["text ground", "text card", "quiet ground", "quiet card", "bad card"]
    for pair in [*pairs, "on-accent accent", "text soft"]:
        bright, dim = sorted((luminance(colours[name]) for name in pair.split()), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, pair


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2) of #rgb or #rrggbb."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    channels = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
