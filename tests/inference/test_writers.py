import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from saccade.inference.detections import supervision
from saccade.inference.records import to_coco_results, to_record
from saccade.inference.writers import JsonLines, JsonList, coco_images_file

FOUND = supervision().Detections(
    xyxy=np.array([[1.0, 2.0, 4.5, 8.004]]),
    confidence=np.array([0.87654321]),
    class_id=np.array([1]),
    data={"class_name": np.array(["dog"])},
)
NOTHING = FOUND[:0]


def test_a_record_holds_boxes_as_corners_in_pixels() -> None:
    assert to_record("a/b.jpg", (30, 40), FOUND) == {
        "file": "a/b.jpg",
        "width": 40,
        "height": 30,
        "detections": [{"class": "dog", "score": 0.8765, "box": [1.0, 2.0, 4.5, 8.0]}],
    }
    empty = to_record("a.jpg", (30, 40), NOTHING, "a.jpg")
    assert (empty["picture"], empty["detections"]) == ("a.jpg", [])


def test_coco_results_hold_corner_and_sides_and_only_known_categories() -> None:
    (result,) = to_coco_results(7, {1: 18}, FOUND)
    assert result["bbox"] == [1.0, 2.0, 3.5, 6.0]
    assert (result["image_id"], result["category_id"]) == (7, 18)
    assert to_coco_results(7, {0: 17}, FOUND) == []


def test_lines_are_there_as_soon_as_they_are_written(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    with JsonLines(file) as lines:
        for number in range(3):
            lines.write({"name": "猫", "number": number})
            written = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
            assert [each["number"] for each in written] == list(range(number + 1))
    assert "猫" in file.read_text("utf-8")


def test_a_list_is_complete_after_every_write(tmp_path: Path) -> None:
    file = tmp_path / "list.json"
    file.write_text("something longer that was here before")
    expected: list[dict[str, int]] = []
    with JsonList(file) as entries:
        assert json.loads(file.read_bytes()) == expected
        for several in ([], [{"a": 1}], [], [{"a": 2}, {"a": 3}]):
            entries.write(several)
            expected += several
            assert json.loads(file.read_bytes()) == expected


def test_a_name_that_is_no_text_is_escaped(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    with JsonLines(file) as lines:
        lines.write({"file": "caf\udce9.jpg"})
    assert json.loads(file.read_bytes()) == {"file": "caf\udce9.jpg"}


def test_coco_tools_load_the_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        coco_images_file(tmp_path / "images.json", ("cat", "dog")) as images,
        JsonList(tmp_path / "predictions.json") as results,
    ):
        for number in (1, 2):
            images.write([{"id": number, "file_name": "a.jpg", "width": 40, "height": 30}])
            results.write(to_coco_results(number, {0: 1, 1: 2}, FOUND))
    truth = COCO(str(tmp_path / "images.json"))
    found = truth.loadRes(str(tmp_path / "predictions.json"))
    assert [each["category_id"] for each in found.loadAnns(found.getAnnIds(imgIds=2))] == [2]
    assert truth.loadCats(2)[0]["name"] == "dog"
