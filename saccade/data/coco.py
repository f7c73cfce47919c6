"""Datasets in COCO's format, in the folder layouts that people have."""

from dataclasses import dataclass
from pathlib import Path

from saccade.data.annotations import Annotations, read_annotations
from saccade.data.split import Format, Split


@dataclass(frozen=True)
class CocoSplit(Split):
    """The images of a COCO annotation file."""

    def read(self) -> Annotations:
        """What the file says; see `read_annotations`."""
        return read_annotations(self.annotations)

    def annotation_files(self) -> list[Path]:
        """The one file."""
        return [self.annotations]


def _find(folder: Path, split: str) -> CocoSplit | None:
    return next(filter(_is_there, _candidates(folder, split)), None)


def _sought(split: str) -> list[str]:
    return [f"{each.annotations} with {each.images}/" for each in _candidates(Path(), split)]


def _splits(folder: Path) -> list[str]:
    names = {file.stem.removeprefix("instances_") for file in folder.glob("annotations/*.json")}
    names |= {file.parent.name for file in folder.glob("*/_annotations.coco.json")}
    return [name for name in names if _find(folder, name)]


def _is_there(split: CocoSplit) -> bool:
    return split.annotations.is_file() and split.images.is_dir()


def _candidates(folder: Path, split: str) -> list[CocoSplit]:
    layouts = [
        ("images", f"annotations/{split}.json"),
        (f"{split}2017", f"annotations/instances_{split}2017.json"),
        (split, f"annotations/instances_{split}.json"),
        (split, f"{split}/_annotations.coco.json"),
    ]
    if split == "val":
        layouts.append(("valid", "valid/_annotations.coco.json"))
    return [CocoSplit(folder / images, folder / annotations) for images, annotations in layouts]


COCO = Format(_find, _sought, _splits)
