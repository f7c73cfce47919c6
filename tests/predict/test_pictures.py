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
