"""The numbers by which COCO's tools know images and categories."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saccade.data.annotations import ImageEntry, read_annotations


@dataclass(frozen=True)
class CocoIds:
    """What images and classes are called in COCO results."""

    images: tuple[int, ...]
    """Of each image file in turn."""
    categories: dict[int, int]
    """By label; classes that the annotations lack are not among them."""
    sizes: tuple[tuple[int, int], ...] | None = None
    """(height, width) in pixels that the annotations say of each image file."""


def numbered(num_images: int, num_classes: int) -> CocoIds:
    """Images and categories numbered from 1, in their order."""
    categories = {label: label + 1 for label in range(num_classes)}
    return CocoIds(tuple(range(1, num_images + 1)), categories)


def ids_of(annotations: Path, files: Sequence[Path], class_names: Sequence[str]) -> CocoIds:
    """The ids that a COCO annotation file has for these images and, by their names, classes.

    An image is found by the longest end of its path that is a ``file_name`` of the annotations.

    Raises:
        OSError: If the annotation file cannot be opened.
        ValueError: If it is unusable, lacks an image, is meant twice by one image, or has no class
            of the detector.
    """
    truth = read_annotations(annotations)
    ids = {name: id for id, name in truth.categories.items()}
    categories = {label: ids[name] for label, name in enumerate(class_names) if name in ids}
    if not categories:
        raise ValueError(
            f"{annotations} has the categories {', '.join(ids) or '(none)'}, but the detector "
            f"knows {', '.join(class_names)}: none in common; name a file whose categories have "
            "the detector's names."
        )
    by_name = {Path(entry.file_name).as_posix(): entry for entry in truth.images}
    entries = [_entry(file, by_name) for file in files]
    unknown = [file for file, entry in zip(files, entries, strict=True) if entry is None]
    if unknown:
        others = "1 other" if len(unknown) == 2 else f"{len(unknown) - 1} others"
        more = f" and {others} are" if len(unknown) > 1 else " is"
        raise ValueError(
            f"{unknown[0]}{more} not among the {len(by_name)} images of {annotations}: name the "
            "images that it describes, or leave out --coco to have them numbered."
        )
    known = [entry for entry in entries if entry is not None]
    first: dict[int, Path] = {}
    for file, entry in zip(files, known, strict=True):
        if entry.id in first:
            raise ValueError(
                f"{first[entry.id]} and {file} are both image {entry.id} of {annotations}: name "
                "each image once."
            )
        first[entry.id] = file
    return CocoIds(
        tuple(entry.id for entry in known), categories, tuple(entry.size for entry in known)
    )


def _entry(file: Path, by_name: dict[str, ImageEntry]) -> ImageEntry | None:
    parts = file.absolute().parts[1:]
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((by_name[end] for end in ends if end in by_name), None)
