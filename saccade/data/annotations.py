"""What annotations say, in COCO's terms; a COCO file, read once and checked entry by entry."""

import json
import sys
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """An image that is listed."""

    id: int
    file_name: str
    """Path from the folder of images; it does not lead out of it."""
    size: tuple[int, int]
    """(height, width) in pixels."""


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """An object that is marked."""

    image_id: int
    category_id: int
    box: tuple[float, float, float, float]
    """``x, y, width, height`` in pixels, x and y of the top left corner; not clipped."""
    area: float
    """Of the object's mask where the file gives it, else of the box; square pixels."""
    crowd: bool
    """The box marks a group of objects, or one that need not be found: it is not trained on, and in
    evaluation neither missed nor wrong to find."""


@dataclass(frozen=True)
class Annotations:
    """What the annotations of one split say of images and boxes."""

    images: tuple[ImageEntry, ...]
    """In rising order of id."""
    objects: tuple[ObjectEntry, ...]
    """In the order of the files, crowds and empty boxes included."""
    categories: dict[int, str]
    """Name by id, in rising order of id."""
    source: Path
    """The file or the folder that said so."""
    broken: tuple[str, ...] = ()
    """A sentence for each image that had to be opened for its size and could not be: it is not
    among `images`."""

    def without(self, image_ids: Container[int]) -> "Annotations":
        """The same without these images and their objects."""
        return replace(
            self,
            images=tuple(entry for entry in self.images if entry.id not in image_ids),
            objects=tuple(entry for entry in self.objects if entry.image_id not in image_ids),
        )


@dataclass(frozen=True, slots=True)
class _Category:
    id: int
    name: str
    supercategory: str | None


Identified = TypeVar("Identified", ImageEntry, _Category)


def read_annotations(file: Path) -> Annotations:
    """Read a COCO annotation file of boxes.

    A missing or null ``area`` becomes width x height, a missing ``iscrowd`` 0. The placeholder
    that Roboflow exports as category 0 (no object uses it, its supercategory is "none" and others
    call it theirs) is left out.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is not JSON, lacks a key, or an entry is unusable; the message names the
            file and the entry.
    """
    try:
        content = json.loads(file.read_bytes())
    # The latter for brackets nested a thousand deep.
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is not JSON ({error}): expected a COCO annotation file; is it complete?"
        ) from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(
                f'{file} has no list "{key}": expected a COCO annotation file with "images", '
                '"annotations" and "categories".'
            )
    images = _by_id(file, "image", _parse(file, "image", content["images"], _image))
    objects = _parse(file, "annotation", content["annotations"], _object)
    used = {entry.category_id for entry in objects}
    listed = _parse(file, "category", content["categories"], _category)
    categories = _by_id(file, "category", _without_placeholder(listed, used))
    _check_references(file, content["annotations"], objects, images.keys(), categories.keys())
    names = {id: entry.name for id, entry in categories.items()}
    check_names(file, names)
    return Annotations(tuple(images.values()), tuple(objects), names, file)


def check_names(file: Path, categories: Mapping[int, str]) -> None:
    """Refuse categories of one name, for it is the name by which they meet a detector.

    Raises:
        ValueError: If two have the same; the message names the file and both.
    """
    first: dict[str, int] = {}
    for id, name in categories.items():
        if name in first:
            raise ValueError(
                f'{file}: categories {first[name]} and {id} are both named "{name}"; '
                "rename one, for classes are told apart by name."
            )
        first[name] = id


def leads_out(file_name: str) -> bool:
    """Whether a file name would be looked for outside the folder of images."""
    path = Path(file_name)
    return bool(path.anchor) or ".." in path.parts


def _parse(file: Path, kind: str, entries: list[Any], parse: Callable[[Any], Entry]) -> list[Entry]:
    parsed = []
    for position, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict):
                raise ValueError(f"is {entry!r}: expected an object with named fields.")
            parsed.append(parse(entry))
        except KeyError as error:
            raise ValueError(
                f'{file}: {_label(kind, entries, position)} has no "{error.args[0]}".'
            ) from error
        except ValueError as error:
            raise ValueError(f"{file}: {_label(kind, entries, position)} {error}") from error
    return parsed


def _label(kind: str, entries: list[Any], position: int) -> str:
    entry = entries[position]
    if isinstance(entry, dict) and "id" in entry:
        return f"{kind} {entry['id']}"
    return f"{kind} at position {position} (from 0)"


def _image(entry: dict[str, Any]) -> ImageEntry:
    size = (_whole(entry, "height"), _whole(entry, "width"))
    if min(size) < 1:
        raise ValueError(f"is {size[1]} x {size[0]} pixels: expected a positive width and height.")
    file_name = _text(entry, "file_name")
    if leads_out(file_name):
        raise ValueError(
            f'has "file_name" {file_name!r}: expected a path inside the folder of images, '
            'relative to it and without "..".'
        )
    return ImageEntry(_whole(entry, "id"), file_name, size)


def _object(entry: dict[str, Any]) -> ObjectEntry:
    box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
        raise ValueError(f'has "bbox" {box}: expected four finite numbers x, y, width, height.')
    x, y, width, height = map(float, box)
    if width < 0 or height < 0:
        raise ValueError(
            f'has "bbox" {box}: expected a width and a height of at least 0; '
            "COCO boxes are x, y, width, height, not two corners."
        )
    area = entry.get("area")
    if area is not None and not _is_finite(area):
        raise ValueError(f'has "area" {area}: expected a finite number of square pixels.')
    return ObjectEntry(
        image_id=_whole(entry, "image_id"),
        category_id=_whole(entry, "category_id"),
        box=(x, y, width, height),
        area=width * height if area is None else float(area),
        crowd=bool(entry.get("iscrowd")),
    )


def _category(entry: dict[str, Any]) -> _Category:
    return _Category(_whole(entry, "id"), _text(entry, "name"), entry.get("supercategory"))


def _is_finite(value: Any) -> bool:
    # False for nan too. math.isfinite fails on integers beyond all floats.
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _whole(entry: dict[str, Any], key: str) -> int:
    value = entry[key]
    if not _is_finite(value) or value != int(value) or abs(value) >= 2**63:
        raise ValueError(f'has "{key}" {value!r}: expected a whole number of at most 64 bits.')
    return int(value)


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry[key]
    if not isinstance(value, str):
        raise ValueError(f'has "{key}" {value!r}: expected text.')
    return value


def _by_id(file: Path, kind: str, entries: list[Identified]) -> dict[int, Identified]:
    found: dict[int, Identified] = {}
    for entry in sorted(entries, key=lambda entry: entry.id):
        if entry.id in found:
            raise ValueError(f"{file}: {kind} {entry.id} is listed twice; give each its own id.")
        found[entry.id] = entry
    return found


def _without_placeholder(listed: list[_Category], used: set[int]) -> list[_Category]:
    parents = {entry.supercategory for entry in listed}
    return [
        entry
        for entry in listed
        if entry.id in used or entry.supercategory != "none" or entry.name not in parents
    ]


def _check_references(
    file: Path,
    entries: list[Any],
    objects: list[ObjectEntry],
    image_ids: Container[int],
    category_ids: Container[int],
) -> None:
    for position, entry in enumerate(objects):
        for key, value, known in (
            ("image_id", entry.image_id, image_ids),
            ("category_id", entry.category_id, category_ids),
        ):
            if value not in known:
                listing = "images" if key == "image_id" else "categories"
                raise ValueError(
                    f'{file}: {_label("annotation", entries, position)} has "{key}" {value}, '
                    f'which "{listing}" does not list.'
                )
