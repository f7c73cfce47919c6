"""Prediction over files and folders: annotated pictures and one JSON file."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from saccade.data import image_suffixes, read_image

if TYPE_CHECKING:
    from supervision import Detections


def find_images(sources: Sequence[Path]) -> list[Path]:
    """The image files among `sources` and in the folders among them, sorted within a folder.

    Raises:
        ValueError: If a source does not exist or a folder holds no image.
    """
    files: list[Path] = []
    for source in sources:
        if source.is_dir():
            readable = image_suffixes()
            inside = sorted(file for file in source.iterdir() if file.suffix.lower() in readable)
            if not inside:
                raise ValueError(f"{source} holds no image files: name a folder that does.")
            files += inside
        elif source.is_file():
            files.append(source)
        else:
            raise ValueError(f"{source} does not exist: expected an image file or a folder.")
    return files


def read_images(files: Sequence[Path]) -> Iterator[tuple[Path, Tensor | ValueError]]:
    """Each file's image, uint8 RGB [3, H, W]; an unreadable file yields its error instead."""
    for file in files:
        try:
            yield file, read_image(file)
        except ValueError as error:
            yield file, error


def free_name(name: str, taken: set[str]) -> str:
    """The name itself, or with a number when an image of another folder has it; now taken.

    >>> taken = set()
    >>> [free_name("cat.jpg", taken) for _ in range(3)]
    ['cat.jpg', 'cat-2.jpg', 'cat-3.jpg']
    """
    path, number, free = Path(name), 1, name
    while free in taken:
        number += 1
        free = f"{path.stem}-{number}{path.suffix}"
    taken.add(free)
    return free


def to_record(file: Path, picture: str, detections: "Detections") -> dict[str, Any]:
    """One image's detections for JSON: boxes are ``x0, y0, x1, y1`` in pixels."""
    assert detections.confidence is not None
    rows = zip(detections.data["class_name"], detections.confidence, detections.xyxy, strict=True)
    return {
        "file": str(file),
        "picture": picture,
        "detections": [
            {
                "class": str(name),
                "score": round(float(score), 4),
                "box": [round(float(side), 2) for side in box],
            }
            for name, score, box in rows
        ],
    }


def write_records(records: Sequence[dict[str, Any]], file: Path) -> None:
    """Write all images' detections as one JSON list."""
    file.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", "utf-8")
