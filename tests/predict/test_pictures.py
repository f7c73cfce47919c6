from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.inference.detections import supervision
from saccade.predict import pictures
from saccade.predict.pictures import Names, Pictures


def found() -> object:
    return supervision().Detections(
        xyxy=np.array([[100.0, 200.0, 700.0, 400.0]], np.float32),
        confidence=np.array([0.5]),
        class_id=np.array([0]),
        data={"class_name": np.array(["cat"])},
    )


def test_names_differ_in_more_than_capital_letters() -> None:
    names = Names()
    given = [names.free(name) for name in ("a.jpg", "A.jpg", "a-2.jpg", "a.jpg", "b.jpg")]
    assert given == ["a.jpg", "A-2.jpg", "a-2-2.jpg", "a-3.jpg", "b.jpg"]


def test_every_picture_is_there_at_the_end(tmp_path: Path) -> None:
    image = torch.zeros(3, 640, 800, dtype=torch.uint8)
    with Pictures(tmp_path) as drawing:
        names = [drawing.draw(Path("cat.png"), image, found()) for _ in range(7)]
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    assert len(set(names)) == 7


class Later:
    """A pool whose jobs run only when somebody waits for them."""

    def __init__(self, *_: object) -> None:
        pass

    def submit(self, function: Callable[..., None], *arguments: object) -> "Later":
        job = Later()
        job.result = partial(function, *arguments)
        job.done = lambda: False
        return job

    def shutdown(self, wait: bool) -> None:
        assert wait


def test_large_images_wait_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(pictures, "ThreadPoolExecutor", Later)
    monkeypatch.setattr(pictures, "_draw", lambda image, found, file: drawn.append(file.name))
    monkeypatch.setattr(pictures, "WAITING_BYTES", 100)
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    with Pictures(tmp_path) as drawing:
        for number in range(4):
            drawing.draw(Path(f"{number}.png"), image, found())
            assert drawn == [f"{earlier}.jpg" for earlier in range(number)]
    assert len(drawn) == 4


def test_a_large_image_is_drawn_smaller_and_its_boxes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "LARGEST_SIDE", 800)
    image = torch.zeros(3, 500, 1600, dtype=torch.uint8)
    with Pictures(tmp_path) as drawing:
        drawing.draw(Path("wide.png"), image, found())
    with Image.open(tmp_path / "wide.jpg") as picture:
        assert picture.size == (800, 250)
        drawn = np.asarray(picture).max(-1) > 60
    rows, columns = (np.flatnonzero(drawn.any(axis)) for axis in (1, 0))
    np.testing.assert_allclose([columns[0], rows[-1]], [50, 200], atol=3)


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    image = torch.zeros(3, 640, 640, dtype=torch.uint8)
    with pytest.raises(OSError, match="missing"), Pictures(tmp_path / "missing") as drawing:
        drawing.draw(Path("cat.png"), image, found())
