from pathlib import Path

import pytest

from saccade.data import CocoSplit
from saccade.doctor.box_checks import box_findings
from saccade.doctor.findings import Severity

from .datasets import Box, annotations, only, tables

SPLITS = {name: CocoSplit(Path(), Path()) for name in ("train", "val")}
GOOD: Box = (20, 20, 60, 60)


def good(count: int) -> list[tuple[int, Box]]:
    """Boxes that are all different."""
    return [(1 + index % 3, (float(2 * index), 20.0, 60.0, 60.0)) for index in range(count)]


def test_a_healthy_dataset_has_nothing_to_say() -> None:
    assert box_findings(tables(), SPLITS) == []


@pytest.mark.parametrize(
    ("box", "sentence"),
    [
        ((50, 50, 0, 20), "1 box of train (less than 1 %) has no width or no height"),
        ((400, 50, 20, 20), "lies wholly outside"),
        ((300, 50, 60, 20), "sticks out of their image"),
        ((50, 50, 0.5, 20), "is thinner than a pixel"),
        ((20, 20, 60, 60), "repeats an object of the same class"),
    ],
)
def test_a_single_bad_box_is_worth_a_look_and_shown(box: Box, sentence: str) -> None:
    images = [[(1, GOOD), *good(20)[15:]] for _ in range(30)]
    images[3].append((1, box))
    found = only(box_findings(tables(annotations(images)), SPLITS))
    assert found.severity is Severity.LOOK
    assert sentence in found.what
    (example,) = found.examples
    assert example.file == Path("train/4.png")
    x, y, width, height = box
    assert example.boxes == ((x, y, x + width, y + height),)


@pytest.mark.parametrize(
    ("box", "sentence"),
    [
        ((50, 50, 20, 0), "have no width or no height"),
        ((-90, 50, 20, 20), "lie wholly outside"),
        ((20, 20, 60, 60), "repeat an object"),
    ],
)
def test_many_lost_or_doubled_objects_hurt(box: Box, sentence: str) -> None:
    images = [[(1, GOOD), *good(3)[1:], (1, box)] for _ in range(10)]
    found = only(box_findings(tables(annotations(images)), SPLITS))
    assert found.severity is Severity.HURTS
    assert f"10 boxes of train (25 %) {sentence}" in found.what


def test_rounding_at_the_border_is_left_alone() -> None:
    images = [[(1, (-1.0, 20.0, 60.0, 60.0)), (2, (261.5, 20.0, 60.0, 60.0))]] * 4
    assert box_findings(tables(annotations(images)), SPLITS) == []


def test_one_box_of_two_classes_is_worth_a_look_but_not_where_all_are() -> None:
    images = [[*good(6)] for _ in range(10)]
    images[0].append((2, (0.0, 20.0, 60.0, 60.0)))
    found = only(box_findings(tables(annotations(images)), SPLITS))
    assert "box of an object of another class" in found.what
    overlapping = [[*good(6), *((1 + k % 3, box) for k, box in good(6))] for _ in range(10)]
    assert box_findings(tables(annotations(overlapping)), SPLITS) == []


def test_the_same_box_on_another_image_is_another_object() -> None:
    assert box_findings(tables(annotations([[(1, GOOD)]] * 50)), SPLITS) == []


def test_fractions_in_a_coco_file_hurt() -> None:
    found = only(box_findings(tables(annotations([[(1, (0.2, 0.3, 0.1, 0.4))]] * 4)), SPLITS))
    assert found.severity is Severity.HURTS
    assert "fractions of the image" in found.what


@pytest.mark.parametrize("few", [(0.3, 0.3, 0.0, 0.2), (90.0, 90.0, 20.0, 20.0)])
def test_a_few_other_boxes_do_not_hide_a_file_of_fractions(few: Box) -> None:
    images = [[(1, (0.2, 0.3, 0.1, 0.4))] for _ in range(200)]
    images[7] = [(1, few)]
    found = only(box_findings(tables(annotations(images)), SPLITS))
    assert "fractions of the image" in found.what


def test_a_few_degenerate_boxes_do_not_hide_a_file_of_corners() -> None:
    corners: list[tuple[int, Box]] = [(1, (120, 90, 300, 200)), (2, (100, 150, 280, 230))]
    images = [corners for _ in range(100)]
    images[7] = [(1, (100, 50, 100, 50))]
    found = only(box_findings(tables(annotations(images)), SPLITS))
    assert "more than 99 % would fit if their four numbers were two corners" in found.what


def test_corners_in_a_coco_file_hurt() -> None:
    corners: list[tuple[int, Box]] = [(1, (120, 90, 300, 200)), (2, (100, 150, 280, 230))]
    found = only(box_findings(tables(annotations([corners] * 4)), SPLITS))
    assert found.severity is Severity.HURTS
    assert "four numbers were two corners" in found.what
    assert found.remedy == "subtract x from the third number and y from the fourth"
