import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.analysis import explain_panels as panels
from saccade.analysis.explain import choose
from saccade.analysis.explain_focus import focus_of, paint_focus
from saccade.analysis.explain_panels import salience, view_around
from saccade.analysis.sparsity import LayerSparsity
from saccade.cli import main
from saccade.inference import Detector
from saccade.model import DetectorModel
from tests.conftest import small_config


class Page(HTMLParser):
    """The addresses that a page names, and its titles."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.text = file.read_text("utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]

    @property
    def titles(self) -> list[str]:
        return re.findall(r"<h2>(.*?)</h2>", self.text)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def weights(tmp_path: Path, kind: str) -> Path:
    config = small_config(kind)
    torch.manual_seed(0)
    small = replace(config.input, short_side=64, max_side=96)
    config = replace(config, input=small, class_names=("<cat>", "<dog>"))
    Detector(config, DetectorModel(config)).save_pretrained(tmp_path / kind)
    return tmp_path / kind


def explain(photo: Path, weights: Path, *arguments: str) -> int:
    out = photo.parent / "out"
    options = ["--weights", str(weights), "--out", str(out), "--threshold", "0"]
    return main(["explain", str(photo), *options, "--top-k", "4", "--objects", "1", *arguments])


@pytest.mark.parametrize("kind", ["two-stage", "learned", "detr", "encoder-only", "tsp-fcos"])
def test_a_detector_is_explained_on_one_page_without_outside_addresses(
    photo: Path, weights: Path, kind: str
) -> None:
    # The maps take time, and have tests of their own.
    options = ["--pixel", "10", "20", "80", "50"] if kind == "two-stage" else ["--no-gradients"]
    assert explain(photo, weights, *options) == 0
    out = photo.parent / "out"
    page = Page(out / "index.html")
    assert page.addresses
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert "http" not in page.text
    assert "&lt;" in page.text
    assert "<dog>" not in page.text
    assert "<cat>" not in page.text
    files = {file.stem for file in out.glob("*.png")}
    assert "overview" in files
    decoder = kind not in ("encoder-only", "tsp-fcos")
    assert ("object-1-layers" in files) == ("object-1-boxes" in files) == decoder
    assert ("encoder-1" in files) == (kind != "tsp-fcos")
    assert ("proposals" in files) == ("object-1-gradients" in files) == (kind == "two-stage")
    assert "How concentrated attention is" in page.titles
    assert "attention" in files
    # A section for each picture, and one for the command.
    assert len(page.titles) == len(files) + 1
    if kind == "two-stage":
        assert "Where the encoder looked from pixel (10, 20)" in page.titles
        assert "Where the encoder looked from pixel (80, 50)" in page.titles
    for file in out.glob("*.png"):
        with Image.open(file) as picture:
            assert min(picture.size) > 150


@pytest.mark.parametrize("kind", ["two-stage"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threshold", "1"], "nothing in the image has a score of 1 or more: the best is 0."),
        (["--threshold", "2"], "threshold is 2"),
        (["--top-k", "0"], "top_k is 0"),
        (["--objects", "0"], "--objects is 0: expected at least 1"),
        (["--pixel", "90", "3"], r"the pixel (90, 3) is not in the image"),
        (["--out", "photo.png"], "is a file: name a folder"),
        (["--out", "."], "--out . holds the image itself: name another folder"),
    ],
)
def test_unusable_options_are_refused_in_a_sentence(
    photo: Path,
    weights: Path,
    kind: str,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(photo.parent)
    assert explain(photo, weights, "--no-gradients", *options) == 2
    said = capsys.readouterr().err
    assert said.startswith("saccade explain: ")
    assert message in said


@pytest.mark.parametrize("kind", ["two-stage"])
def test_what_is_no_image_is_refused(
    tmp_path: Path, weights: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    assert explain(broken, weights) == 2
    assert "broken.jpg cannot be read as an image" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["tsp-fcos"])
def test_a_detector_without_a_grid_has_no_pixel_to_look_from(
    photo: Path, weights: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(photo, weights, "--no-gradients", "--pixel", "3", "4") == 2
    assert "lie on no grid" in capsys.readouterr().err


def test_the_surest_of_each_class_come_first() -> None:
    assert choose([1, 1, 0, 1, 2], 4) == [0, 2, 4, 1]
    assert choose([1], 3) == [0]


def test_attention_that_looks_everywhere_has_a_full_bar_and_one_key_a_short_one() -> None:
    alike, sharp = focus_of(
        [
            LayerSparsity("encoder.layers.0.attention", -math.log(12), 12.0, -math.log(12) / 12),
            LayerSparsity("decoder.layers.1.cross_attention", 0.0, 40.0, 0.0),
        ]
    )
    assert (alike.name, alike.text) == ("encoder layer 1, attention", "as if 12.0 of 12")
    assert (sharp.name, sharp.text) == ("decoder layer 2, cross-attention", "as if 1.0 of 40")
    assert (alike.share, sharp.share) == (pytest.approx(1), pytest.approx(1 / 40))
    coloured = np.asarray(paint_focus([alike, sharp]).convert("RGB")) == (0x8F, 0xC0, 0xE4)
    long, short = (half.all(-1).sum() for half in np.split(coloured[80:168], 2))
    assert short == pytest.approx(long / 40, rel=0.6)
    assert short > 0


def test_a_view_holds_the_box_and_keeps_the_images_proportions() -> None:
    x0, y0, x1, y1 = view_around([(300, 10, 340, 60)], [], (200, 400))
    assert (x1 - x0) / (y1 - y0) == pytest.approx(2)
    assert x0 <= 300
    assert x1 >= 340
    assert y0 <= 10
    assert y1 >= 60
    # A point that weighs next to nothing does not widen it, one that does weigh does.
    near = [[320.0, 30.0, 1.0, 0, 0]] * 9
    far = [20.0, 190.0, 0.01, 0, 0]
    assert view_around([(300, 10, 340, 60)], [*near, far], (200, 400)) == (x0, y0, x1, y1)
    far[2] = 1.0
    assert view_around([(300, 10, 340, 60)], [*near, far], (200, 400))[0] <= 20


@pytest.mark.parametrize("view", [None, (1000, 500, 3000, 2000)])
def test_a_photograph_is_made_smaller_before_it_is_drawn(
    view: tuple[int, int, int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    muted: list[tuple[int, ...]] = []
    monkeypatch.setattr(panels, "mute", lambda part: (muted.append(part.shape), part)[1])
    photo = np.zeros((3000, 4000, 3), np.uint8)
    photo[1000:1500, 2000:2400] = 255
    drawn = panels.panel(photo, lambda axes: None, view, width=200)
    assert max(muted[0]) <= 1000
    x0, y0, x1, _ = view or (0, 0, 4000, 3000)
    scale = 200 / (x1 - x0)
    bright = drawn[..., 0] > 127
    rows, columns = (np.flatnonzero(bright.any(axis)) for axis in (1, 0))
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    expected = [(2000 - x0), (1000 - y0), (2400 - x0), (1500 - y0)]
    np.testing.assert_allclose(found, np.array(expected) * scale, atol=1.5)


def test_a_map_of_nothing_leaves_the_image_grey() -> None:
    image = np.full((8, 8, 3), 100, np.uint8)
    shown = salience(image, np.zeros((8, 8)))
    assert (shown == shown[0, 0, 0]).all()
    norms = np.zeros((8, 8))
    norms[2, 3] = 1.0
    shown = salience(image, norms).astype(int)
    assert shown[2, 3, 0] > shown[2, 4, 0]
    assert (shown[5] == shown[5, 0, 0]).all()
