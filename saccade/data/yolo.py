"""Ultralytics' YOLO format: data.yaml, images, and a text file of labels for each.

Nothing is downloaded or executed, whatever data.yaml asks for.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.data.annotations import Annotations, ImageEntry, ObjectEntry
from saccade.data.broken_images import as_sentence
from saccade.data.headers import read_size
from saccade.data.images import image_suffixes
from saccade.data.split import Format, Split
from saccade.data.yolo_labels import label_file, read_labels
from saccade.data.yolo_yaml import class_names, find_yaml, keypoint_numbers, split_names

SYNONYMS = ("val", "valid", "validation")


@dataclass(frozen=True)
class YoloSplit(Split):
    """The images that an entry of data.yaml names."""

    file_names: tuple[str, ...]
    """Of the images, sorted."""
    class_names: dict[int, str]
    num_keypoint_numbers: int
    """How many numbers of keypoints follow each box."""

    def read(self) -> Annotations:
        """What the label files say; see `read_labels`.

        An image without a label file has no objects. Images are opened for their sizes.

        Raises:
            ValueError: If a label file is unusable, or no image has one.
        """
        with ThreadPoolExecutor() as pool:
            sizes = list(pool.map(self._size, self.file_names))
        images: list[ImageEntry] = []
        objects: list[ObjectEntry] = []
        labelled = False
        for id, (name, size) in enumerate(zip(self.file_names, sizes, strict=True), start=1):
            file = label_file(self.images / name)
            labelled = labelled or file.is_file()
            if isinstance(size, str):
                continue
            images.append(ImageEntry(id, name, size))
            objects += read_labels(file, images[-1], self.class_names, self.num_keypoint_numbers)
        if not labelled:
            raise ValueError(
                f"{self.annotations}: none of {len(self.file_names)} images has a label file; "
                f"looked for {label_file(self.images / self.file_names[0])} and so on, beside the "
                'images or in "labels" instead of "images".'
            )
        broken = tuple(size for size in sizes if isinstance(size, str))
        return Annotations(
            tuple(images), tuple(objects), self.class_names, self.annotations, broken
        )

    def annotation_files(self) -> list[Path]:
        """data.yaml and the label files that there are."""
        labels = (label_file(self.images / name) for name in self.file_names)
        return [self.annotations, *(file for file in labels if file.is_file())]

    def _size(self, name: str) -> tuple[int, int] | str:
        try:
            return read_size(self.images / name)
        except (ValueError, OSError) as error:
            return as_sentence(error)


def _find(folder: Path, split: str) -> YoloSplit | None:
    found = find_yaml(folder)
    if found is None:
        return None
    file, values = found
    names = SYNONYMS if split in SYNONYMS else (split,)
    entry = next((values[name] for name in (split, *names) if values.get(name)), None)
    if entry is None:
        return None
    places = [_place(file, values, each) for each in _entries(file, split, entry)]
    images = sorted({image for place in places for image in _images(place, file, values)})
    if not images:
        raise ValueError(f'{file}: "{split}" names {places[0]}, which holds no images.')
    root = Path(os.path.commonpath([place if place.is_dir() else place.parent for place in places]))
    if not all(image.is_relative_to(root) for image in images):
        root = Path(os.path.commonpath([image.parent for image in images]))
    file_names = tuple(image.relative_to(root).as_posix() for image in images)
    return YoloSplit(root, file, file_names, class_names(file, values), keypoint_numbers(values))


def _sought(split: str) -> list[str]:
    return [f'data.yaml or another YAML file with "names" and "{split}"']


def _splits(folder: Path) -> list[str]:
    found = find_yaml(folder)
    return [] if found is None else split_names(found[1])


def _entries(file: Path, split: str, entry: Any) -> list[str]:
    entries = entry if isinstance(entry, list) else [entry]
    if not all(isinstance(each, str) for each in entries):
        raise ValueError(
            f'{file}: "{split}" is {entry!r}: expected a folder of images, a text file that lists '
            "them, or several of these."
        )
    return entries


def _place(file: Path, values: dict[str, Any], entry: str) -> Path:
    """The folder or list that an entry names."""
    bases = _bases(file, values)
    # Roboflow writes "../train/images" for what is beside data.yaml.
    candidates = [base / each for base in bases for each in (entry, entry.removeprefix("../"))]
    # Not Path.resolve, which follows links: labels are looked for beside the link.
    places = [Path(os.path.abspath(candidate)) for candidate in candidates]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        looked = ", ".join(map(str, dict.fromkeys(places)))
        raise ValueError(
            f'{file} names {entry}, which does not exist: looked for {looked}; correct "path" or '
            "the entry."
        )
    return found


def _bases(file: Path, values: dict[str, Any]) -> list[Path]:
    path = values.get("path")
    return [file.parent / str(path), file.parent, Path(str(path))] if path else [file.parent]


def _images(place: Path, file: Path, values: dict[str, Any]) -> Iterator[Path]:
    suffixes = image_suffixes()
    if place.is_dir():
        for image in place.rglob("*"):
            # What begins with a dot was left by macOS or a notebook.
            hidden = any(part.startswith(".") for part in image.relative_to(place).parts)
            if image.suffix.lower() in suffixes and not hidden:
                yield image
        return
    if place.suffix.lower() in suffixes:
        yield place
        return
    try:
        lines = place.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{place} is not text: expected a list of images.") from error
    bases = [place.parent, *_bases(file, values)]
    for line in map(str.strip, lines):
        if line:
            candidates = [Path(os.path.abspath(base / line)) for base in bases]
            yield next((each for each in candidates if each.is_file()), candidates[0])


YOLO = Format(_find, _sought, _splits)
