"""YOLO's label files: a row per object, its class and its box or outline."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from saccade.data.annotations import ImageEntry, ObjectEntry

LARGEST = 2.0
"""Fraction of image: what exceeds it was meant in pixels. Boxes that stick out less are clipped."""


def label_file(image: Path) -> Path:
    """Where the labels of an image are: in "labels" instead of the last "images" of its path.

    >>> label_file(Path("data/images/train/a.jpg")).as_posix()
    'data/labels/train/a.txt'
    >>> label_file(Path("data/train/a.jpg")).as_posix()
    'data/train/a.txt'
    """
    folders = list(image.parts[:-1])
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return Path(*folders, image.stem + ".txt")


def read_labels(
    file: Path, image: ImageEntry, class_names: Mapping[int, str], num_keypoint_numbers: int = 0
) -> list[ObjectEntry]:
    """The objects of one image; none if it has no label file.

    A row is ``class cx cy w h``, or ``class x0 y0 x1 y1 x2 y2 ...``, an outline of three points or
    more (segments, rotated boxes), which becomes the box around it and keeps its area. All are
    fractions of the image.

    Args:
        file: The label file.
        image: Whose size the fractions are of.
        class_names: Of data.yaml.
        num_keypoint_numbers: How many numbers follow each box that are not read.

    Raises:
        ValueError: If a row is unusable; the message names file and line.
    """
    if not file.is_file():
        return []
    objects = []
    try:
        lines = file.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text: expected rows of class, x, y, w, h.") from error
    for number, line in enumerate(lines, start=1):
        if fields := line.split():
            try:
                objects.append(_object(fields, image, class_names, num_keypoint_numbers))
            except ValueError as error:
                raise ValueError(f"{file}, line {number}: {error}") from error
    return objects


def _object(
    fields: Sequence[str],
    image: ImageEntry,
    class_names: Mapping[int, str],
    num_keypoint_numbers: int,
) -> ObjectEntry:
    label, *place = _numbers(fields)
    if label not in class_names:
        raise ValueError(
            f"the class is {fields[0]}: expected one of {min(class_names)} to {max(class_names)}, "
            'which "names" lists; classes are counted from 0.'
        )
    if num_keypoint_numbers and len(place) == 4 + num_keypoint_numbers:
        place = place[:4]
    if len(place) != 4 and (len(place) < 6 or len(place) % 2):
        raise ValueError(
            f"there are {len(fields)} numbers: expected five (class, x, y, width, height) or a "
            "class and the points of an outline."
        )
    if max(map(abs, place)) > LARGEST:
        raise ValueError(
            f"{max(place, key=abs):g} is no fraction of the image: divide x and width by the "
            "image's width, y and height by its height."
        )
    height, width = image.size
    if len(place) == 4:
        x, y, w, h = place
        if w < 0 or h < 0:
            raise ValueError(f"the box is {w:g} wide and {h:g} high: expected at least 0.")
        left, top, area = x - w / 2, y - h / 2, w * h
    else:
        xs, ys = place[::2], place[1::2]
        left, top = min(xs), min(ys)
        w, h, area = max(xs) - left, max(ys) - top, _area(xs, ys)
    return ObjectEntry(
        image_id=image.id,
        category_id=int(label),
        box=(left * width, top * height, w * width, h * height),
        area=area * width * height,
        crowd=False,
    )


def _numbers(fields: Sequence[str]) -> list[float]:
    try:
        numbers = [float(field) for field in fields]
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(f'"{" ".join(fields[:9])}" is not a row of finite numbers.')
    return numbers


def _area(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of a polygon, by the shoelace formula."""
    points = [*zip(xs, ys, strict=True), (xs[0], ys[0])]
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(points))) / 2
