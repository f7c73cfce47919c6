import json
from pathlib import Path

import yaml

from saccade.data import CocoSplit, find_split
from saccade.doctor.findings import Severity
from saccade.doctor.label_numbers import number_findings
from saccade.doctor.reading import read_tables

from ..data.formats import Marked, write_voc_format, write_yolo_format
from .datasets import Box, alarming, annotations, only, tables, write_dataset

PICTURES = {
    stem: ((64, 64), [Marked("cat", (2, 2, 20, 20)), Marked("dog", (20, 20, 60, 60))])
    for stem in ("a", "b", "c")
}
BOX: Box = (20, 20, 60, 60)


def yolo(folder: Path) -> Path:
    folder.mkdir()
    write_yolo_format(folder, PICTURES)
    file = folder / "data.yaml"
    description = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(description | {"val": description["train"]}))
    return folder


def test_a_healthy_dataset_has_nothing_to_say(tmp_path: Path) -> None:
    folder = yolo(tmp_path / "data")
    found, unread = read_tables(folder)
    assert unread == []
    assert number_findings(found, {"train": find_split(folder, "train")}) == []
    assert number_findings(tables(), {}) == []


def test_yolo_labels_that_count_from_1_are_told_so(tmp_path: Path) -> None:
    folder = yolo(tmp_path / "data")
    for file in (folder / "labels" / "train").iterdir():
        rows = [line.split(" ", 1) for line in file.read_text().splitlines()]
        file.write_text("".join(f"{int(number) + 1} {rest}\n" for number, rest in rows))
    _, unread = read_tables(folder)
    assert [each.severity for each in unread] == [Severity.HURTS] * 2
    assert "the labels seem to count from 1 (used are 1 to 2, listed 0 to 1)" in unread[0].remedy


def test_coco_ids_that_count_from_0_are_told_so(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data")
    file = folder / "annotations" / "train.json"
    content = json.loads(file.read_text())
    for entry in content["annotations"]:
        entry["category_id"] -= 1
    file.write_text(json.dumps(content))
    read, (found,) = read_tables(folder)
    assert read.of_training is None
    assert found.severity is Severity.HURTS
    assert "the labels seem to count from 0 (used are 0 to 2, listed 1 to 3)" in found.remedy


def test_coco_ids_are_not_told_to_count_from_1(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data")
    file = folder / "annotations" / "train.json"
    content = json.loads(file.read_text())
    for entry in content["categories"]:
        entry["id"] -= 1
    file.write_text(json.dumps(content))
    _, (found,) = read_tables(folder)
    assert "subtract" not in found.remedy
    assert "used are 1 to 3, listed 0 to 2" in found.remedy


def test_a_class_beyond_the_list_is_not_taken_for_a_shift(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data")
    file = folder / "annotations" / "train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["category_id"] = 9
    file.write_text(json.dumps(content))
    _, (found,) = read_tables(folder)
    assert found.remedy.startswith("used are 1 to 9, with gaps, listed 1 to 3; list the missing")


def test_a_first_class_that_alone_is_unused_is_worth_a_look_in_yolos_format_alone(
    tmp_path: Path,
) -> None:
    both = [annotations([[(2, BOX), (3, (90, 20, 50, 50))]] * 4, first_image=i) for i in (1, 50)]
    split = find_split(yolo(tmp_path / "data"), "train")
    found = only(number_findings(tables(*both), {"train": split}))
    assert found.severity is Severity.LOOK
    assert 'no object is of the first class, "cat"' in found.what
    # In COCO's format ids are whatever the file says; exports often list a class that nothing is.
    assert number_findings(tables(*both), {"train": CocoSplit(Path(), Path())}) == []


def test_a_class_for_the_background_is_told_to_be_needless() -> None:
    names = ("background", "dog", "cow")
    both = [
        annotations([[(2, BOX), (3, (90, 20, 50, 50))]] * 4, names=names, first_image=i)
        for i in (1, 50)
    ]
    assert (
        "a detector needs no class for the background"
        in only(number_findings(tables(*both), {})).what
    )


def test_names_that_differ_between_splits_are_worth_a_look() -> None:
    objects = [[(1, BOX), (2, (90, 20, 50, 50)), (3, (9.0, 9.0, 40.0, 40.0))]] * 4
    other = annotations(objects, names=("dog", "cat", "cow"), first_image=50)
    found = only(number_findings(tables(annotations(objects), other), {}))
    assert 'category 1 is "cat" in train but "dog" in val, and 2 categories differ' in found.what


def test_voc_boxes_that_count_from_0_are_worth_a_look(tmp_path: Path) -> None:
    folder = write_voc_format(tmp_path, PICTURES)
    write_voc_format(tmp_path, PICTURES, "val")
    splits = {"train": find_split(folder, "train")}
    read, _ = read_tables(folder)
    assert alarming(number_findings(read, splits)) == []
    for file in (folder / "Annotations").iterdir():
        file.write_text(file.read_text().replace("<xmin>3</xmin>", "<xmin>0</xmin>"))
    read, _ = read_tables(folder)
    found = only(number_findings(read, splits))
    assert "3 boxes of train (50 %) have an xmin or ymin of 0" in found.what


def test_labels_of_any_kind_are_read_again_without_an_error(tmp_path: Path) -> None:
    folder = yolo(tmp_path / "data")
    file = next((folder / "labels" / "train").iterdir())
    for number in ("--5", "9" * 5000):
        file.write_text(f"{number} 0.5 0.5 0.1 0.1\n")
        _, unread = read_tables(folder)
        assert [each.topic for each in unread] == ["annotations"] * 2
