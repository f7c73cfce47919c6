"""The same pictures and boxes in the three formats that people have."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image


@dataclass(frozen=True)
class Marked:
    """An object: its class, and the pixels it covers, first included, last not."""

    name: str
    box: tuple[int, int, int, int]
    """``x0, y0, x1, y1``."""
    difficult: bool = False


Pictures = dict[str, tuple[tuple[int, int], list[Marked]]]
"""(height, width), a power of two each, so that fractions are exact, and objects, by stem."""


def write_picture(file: Path, size: tuple[int, int]) -> None:
    """Noise, always the same for one stem."""
    file.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(list(file.stem.encode()))
    pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


def names_of(pictures: Pictures) -> list[str]:
    return sorted({marked.name for _, objects in pictures.values() for marked in objects})


def write_coco_format(folder: Path, pictures: Pictures, split: str = "train") -> Path:
    """Sparse ids, categories not in the order of their names."""
    category_id = {name: 90 - 7 * number for number, name in enumerate(names_of(pictures))}
    images, annotations = [], []
    for number, (stem, (size, objects)) in enumerate(sorted(pictures.items())):
        write_picture(folder / "images" / f"{stem}.png", size)
        id = 1000 + 13 * number
        images.append({"id": id, "file_name": f"{stem}.png", "height": size[0], "width": size[1]})
        for marked in objects:
            x0, y0, x1, y1 = marked.box
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": id,
                    "category_id": category_id[marked.name],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": int(marked.difficult),
                }
            )
    categories = [{"id": id, "name": name} for name, id in category_id.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return folder


def write_yolo_format(folder: Path, pictures: Pictures, split: str = "train") -> Path:
    """Images without objects have an empty label file or none, in turns."""
    names = names_of(pictures)
    for number, (stem, (size, objects)) in enumerate(sorted(pictures.items())):
        write_picture(folder / "images" / split / f"{stem}.png", size)
        rows = []
        for marked in objects:
            x0, y0, x1, y1 = marked.box
            box = ((x0 + x1) / 2 / size[1], (y0 + y1) / 2 / size[0])
            box += ((x1 - x0) / size[1], (y1 - y0) / size[0])
            rows.append(" ".join(map(str, (names.index(marked.name), *box))))
        labels = folder / "labels" / split / f"{stem}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        if rows or number % 2:
            labels.write_text("".join(f"{row}\n" for row in rows))
    description = {"path": ".", "train": f"images/{split}", "nc": len(names), "names": names}
    description |= {split: f"images/{split}"}
    (folder / "data.yaml").write_text(yaml.safe_dump(description))
    return folder


def write_voc_format(folder: Path, pictures: Pictures, split: str = "train") -> Path:
    for place in ("Annotations", "ImageSets/Main"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for stem, (size, objects) in pictures.items():
        write_picture(folder / "JPEGImages" / f"{stem}.png", size)
        xml = "".join(map(voc_object, objects))
        write_voc_annotation(folder / "Annotations" / f"{stem}.xml", size, xml)
    listing = "".join(f"{stem}\n" for stem in sorted(pictures))
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(listing)
    return folder


def voc_object(marked: Marked) -> str:
    x0, y0, x1, y1 = marked.box
    return (
        f"<object><name>{marked.name}</name><pose>Left</pose>"
        f"<difficult>{int(marked.difficult)}</difficult>"
        f"<bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
        "</bndbox></object>"
    )


def write_voc_annotation(file: Path, size: tuple[int, int], objects: str = "") -> None:
    height, width = size
    file.write_text(
        f"<annotation><filename>{file.stem}.png</filename>"
        f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        f"{objects}</annotation>"
    )
