import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.analysis.draw import (
    COLOURS,
    draw_beside_truth,
    draw_boxes,
    draw_curve,
    save_image,
)
from saccade.inference.detections import supervision


def detections(scored: bool = True, count: int = 1) -> object:
    return supervision().Detections(
        xyxy=np.array([[40.0, 60.0, 120.0, 100.0]])[:count],
        confidence=np.array([0.9])[:count] if scored else None,
        class_id=np.array([0])[:count],
        data={"class_name": np.array(["cat"])[:count]},
    )


def test_the_box_is_drawn_where_it_is_in_the_colour_of_its_class() -> None:
    picture = draw_boxes(torch.full((3, 320, 640), 128, dtype=torch.uint8), detections())
    assert picture.shape == (320, 640, 3)
    colour = tuple(bytes.fromhex(COLOURS[0][1:]))
    drawn = np.argwhere((picture == colour).all(-1))
    assert drawn.size
    edge_rows, edge_columns = drawn.max(0)
    assert abs(edge_rows - 100) <= 2
    assert abs(edge_columns - 120) <= 2


def test_a_small_image_is_enlarged_with_its_boxes() -> None:
    picture = draw_boxes(torch.zeros(3, 160, 320, dtype=torch.uint8), detections())
    assert picture.shape == (320, 640, 3)
    assert np.argwhere(picture.any(-1)).max(0)[1] == pytest.approx(240, abs=2)


def test_nothing_found_leaves_the_image_alone() -> None:
    image = torch.full((3, 640, 640), 7, dtype=torch.uint8)
    assert (draw_boxes(image, detections(count=0)) == 7).all()


def test_found_and_marked_stand_beside_each_other(tmp_path: Path) -> None:
    image = torch.zeros(3, 320, 640, dtype=torch.uint8)
    picture = draw_beside_truth(image, detections(), detections(scored=False))
    assert picture.shape[1] == 2 * 640 + 8
    save_image(picture, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as saved:
        assert saved.size == (1288, picture.shape[0])


def test_the_curve_of_a_run_is_a_picture(tmp_path: Path) -> None:
    lines = [json.dumps({"minutes": m, "AP": 0.1 * m, "AP50": 0.2 * m}) for m in (1, 2, 3)]
    (tmp_path / "evaluations.jsonl").write_text("\n".join(lines))
    draw_curve(tmp_path / "evaluations.jsonl", tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as saved:
        assert saved.size == (960, 600)
