"""Small datasets, healthy until a test plants something."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from saccade.config import DetectorConfig
from saccade.data.annotations import Annotations, ImageEntry, ObjectEntry
from saccade.doctor.findings import Finding, Severity
from saccade.doctor.tables import Tables, tabulate
from saccade.presets import preset_config
from saccade.recipes import for_detector
from saccade.run_config import RunConfig

NAMES = ("cat", "dog", "cow")
Box = tuple[float, float, float, float]


def nano(**changes: Any) -> RunConfig:
    """A run of the nano preset: input 240 x 400, strides 8 to 32, 100 queries."""
    config = for_detector(preset_config("deformable-detr-nano", class_names=NAMES))
    return RunConfig(**{**{f: getattr(config, f) for f in config.__dataclass_fields__}, **changes})


def detector(preset: str = "deformable-detr-nano") -> DetectorConfig:
    return preset_config(preset, class_names=NAMES)


def annotations(
    boxes: Sequence[Sequence[tuple[int, Box]]],
    size: tuple[int, int] = (240, 320),
    names: Sequence[str] = NAMES,
    first_image: int = 1,
) -> Annotations:
    """Annotations of one image per list of (category id, box); a box is x, y, width, height."""
    images = tuple(
        ImageEntry(first_image + row, f"{first_image + row}.png", size) for row in range(len(boxes))
    )
    objects = tuple(
        ObjectEntry(first_image + row, category, (x, y, w, h), w * h, crowd=False)
        for row, each in enumerate(boxes)
        for category, box in each
        for x, y, w, h in [map(float, box)]
    )
    return Annotations(images, objects, dict(enumerate(names, start=1)), Path("annotations.json"))


def healthy(num_images: int = 12, first_image: int = 1) -> Annotations:
    """An object of every class on each image."""
    each: list[tuple[int, Box]] = [(1, (10, 10, 50, 60)), (2, (90, 40, 70, 50))]
    return annotations([[*each, (3, (200, 100, 80, 90))]] * num_images, first_image=first_image)


def tables(train: Annotations | None = None, val: Annotations | None = None) -> Tables:
    """A dataset of a split to train on and one to evaluate on."""
    return tabulate(
        {
            "train": (Path("train"), train or healthy()),
            "val": (Path("val"), val or healthy(6, first_image=100)),
        }
    )


def alarming(findings: Sequence[Finding]) -> list[Finding]:
    """What is more than information."""
    return [each for each in findings if each.severity is not Severity.INFORMATION]


def only(findings: Sequence[Finding]) -> Finding:
    """The one finding that is more than information."""
    (found,) = alarming(findings)
    return found


def pattern(seed: int, size: tuple[int, int] = (96, 128)) -> Image.Image:
    """Smooth coloured clouds, another picture for each seed."""
    height, width = size
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_dataset(
    folder: Path,
    train: Annotations | None = None,
    val: Annotations | None = None,
    size: tuple[int, int] = (240, 320),
) -> Path:
    """A COCO folder with a picture for every image."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    splits = {"train": train or healthy(8), "val": val or healthy(4, first_image=100)}
    for name, each in splits.items():
        for image in each.images:
            pattern(image.id, size).save(folder / "images" / image.file_name)
        write_annotations(folder / "annotations" / f"{name}.json", each)
    return folder


def write_annotations(file: Path, what: Annotations) -> None:
    images = [
        {"id": image.id, "file_name": image.file_name, "height": height, "width": width}
        for image in what.images
        for height, width in [image.size]
    ]
    objects = [
        {
            "id": number,
            "image_id": each.image_id,
            "category_id": each.category_id,
            "bbox": list(each.box),
            "area": each.area,
            "iscrowd": int(each.crowd),
        }
        for number, each in enumerate(what.objects, start=1)
    ]
    categories = [{"id": id, "name": name} for id, name in what.categories.items()]
    content = {"images": images, "annotations": objects, "categories": categories}
    file.write_text(json.dumps(content))
