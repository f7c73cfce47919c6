"""Generated images of geometric shapes in COCO's format: a dataset that needs no download."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

SHAPES = ("disc", "square", "triangle", "cross")
"""The classes."""
SPLITS = ("train", "val")
SMALLEST, LARGEST = 1 / 16, 1 / 2
"""A shape's size, as a fraction of the image's side."""
LARGEST_OVERLAP = 0.25
"""Of the smaller of two boxes."""
OVERSAMPLING = 4

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels, as COCO has them."""


def write_shapes(
    folder: Path,
    num_train: int = 200,
    num_val: int = 50,
    side: int = 256,
    most_objects: int = 8,
    seed: int = 0,
) -> None:
    """Write a COCO-style folder of generated images: ``annotations/``, ``images/``.

    Discs, squares, triangles and crosses, turned and coloured at random, from a sixteenth to half
    of the image's side, small ones as likely as large ones (their logarithm is uniform). They lie
    on a cloudy, noisy ground and cover each other a little; boxes are those of the whole shapes.
    The same arguments give the same images.

    Args:
        folder: Made if it is missing.
        num_train: Images of the split "train".
        num_val: Images of the split "val".
        side: Of the square images, in pixels.
        most_objects: An image holds between one and this many shapes.
        seed: Of everything random.

    Raises:
        ValueError: If `folder` holds annotations already, or a number is too small.
    """
    for name, value, least in (
        ("num_train", num_train, 1),
        ("num_val", num_val, 1),
        ("side", side, 32),
        ("most_objects", most_objects, 1),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}: expected at least {least}.")
    annotations = folder / "annotations"
    if annotations.exists() and any(annotations.iterdir()):
        raise ValueError(f"{folder} holds a dataset already: name another folder.")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    content = {
        split: _write_split(folder / "images", split, count, side, most_objects, (seed, number))
        for number, (split, count) in enumerate(zip(SPLITS, (num_train, num_val), strict=True))
    }
    # Both get their names last and at once: a folder that has annotations is complete.
    partial = folder / "annotations.partial"
    partial.mkdir(exist_ok=True)
    for split, values in content.items():
        (partial / f"{split}.json").write_text(json.dumps(values) + "\n", "utf-8")
    if annotations.exists():
        annotations.rmdir()
    os.replace(partial, annotations)


def holds_shapes(folder: Path) -> bool:
    """Whether `write_shapes` has finished there."""
    return all((folder / "annotations" / f"{split}.json").exists() for split in SPLITS)


def draw_shapes(
    side: int, most_objects: int, seed: Sequence[int]
) -> tuple[Image.Image, list[tuple[int, Box, float]]]:
    """One image, and for each shape its class (an index into `SHAPES`), box and area in pixels."""
    random = np.random.default_rng(list(seed))
    pixels = _ground(side, random)
    placed: list[tuple[int, Box, float]] = []
    for _ in range(random.integers(1, most_objects + 1)):
        kind = int(random.integers(len(SHAPES)))
        found = _place(kind, side, [box for _, box, _ in placed], random)
        if found is None:
            continue
        box, mask = found
        _paint(pixels, mask, random)
        placed.append((kind, box, float(mask.sum())))
    pixels += random.normal(0, 8, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), placed


def _write_split(
    images: Path, split: str, count: int, side: int, most_objects: int, seed: tuple[int, int]
) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        image, placed = draw_shapes(side, most_objects, (*seed, number))
        name = f"{split}-{number:05d}.jpg"
        image.save(images / name, quality=92)
        entries.append({"id": number, "file_name": name, "width": side, "height": side})
        for kind, box, area in placed:
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": number,
                    "category_id": kind + 1,
                    "bbox": [round(each, 2) for each in box],
                    "area": round(area, 1),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(SHAPES, start=1)]
    return {"images": entries, "annotations": objects, "categories": categories}


def _ground(side: int, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Clouds in some colour, float RGB [side, side, 3] in [0, 255]."""
    colour = random.uniform(70, 185, 3)
    clouds = np.zeros((side, side, 3))
    for cells, strength in ((3, 30), (9, 18), (27, 10)):
        grid = Image.fromarray(random.integers(0, 256, (cells, cells), dtype=np.uint8))
        smooth = np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC), np.float64)
        clouds += strength * (smooth[..., None] / 127.5 - 1)
    return colour + clouds


def _place(
    kind: int, side: int, others: Sequence[Box], random: np.random.Generator
) -> tuple[Box, npt.NDArray[np.float64]] | None:
    """Box and coverage ([side, side] in [0, 1]) of a shape where it hides little of the others."""
    size = side * math.exp(random.uniform(math.log(SMALLEST), math.log(LARGEST)))
    outline = _outline(kind, random.uniform(0, 2 * math.pi))
    low, high = outline.min(0), outline.max(0)
    # The longer side of the box is `size`.
    outline = (outline - low) * (size / (high - low).max())
    width, height = outline.max(0)
    for _ in range(20):
        x, y = random.uniform(0, side - width), random.uniform(0, side - height)
        box = (x, y, float(width), float(height))
        if all(_overlap(box, other) <= LARGEST_OVERLAP for other in others):
            return box, _coverage(outline + np.array((x, y)), side)
    return None


def _outline(kind: int, angle: float) -> npt.NDArray[np.float64]:
    """The corners [N, 2] of a shape around the origin."""
    if SHAPES[kind] == "cross":
        arm = 0.3
        quarter = [(1, -arm), (1, arm), (arm, arm)]
        corners = [
            (x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn))
            for turn in (0, math.pi / 2, math.pi, 3 * math.pi / 2)
            for x, y in quarter
        ]
    else:
        number = {"disc": 48, "square": 4, "triangle": 3}[SHAPES[kind]]
        turns = [2 * math.pi * corner / number for corner in range(number)]
        corners = [(math.cos(turn), math.sin(turn)) for turn in turns]
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array(corners) @ np.array([[cosine, sine], [-sine, cosine]])


def _coverage(outline: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.float64]:
    """How much of each pixel a shape covers, its corners given in pixels."""
    large = Image.new("L", (side * OVERSAMPLING, side * OVERSAMPLING))
    corners = [(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in outline]
    ImageDraw.Draw(large).polygon(corners, fill=255)
    small = large.resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, np.float64) / 255


def _paint(
    pixels: npt.NDArray[np.float64],
    mask: npt.NDArray[np.float64],
    random: np.random.Generator,
) -> None:
    """A colour that stands out from what the shape covers, in stripes."""
    covered = (pixels * mask[..., None]).sum((0, 1)) / mask.sum()
    colour = random.uniform(0, 255, 3)
    while np.abs(colour - covered).max() < 60:
        colour = random.uniform(0, 255, 3)
    side = len(mask)
    angle, period = random.uniform(0, math.pi), random.uniform(0.03, 0.1) * side
    rows, columns = np.mgrid[:side, :side]
    phase = (columns * math.cos(angle) + rows * math.sin(angle)) * 2 * math.pi / period
    stripes = colour + random.uniform(0, 25) * np.sin(phase)[..., None]
    pixels += mask[..., None] * (stripes - pixels)


def _overlap(first: Box, second: Box) -> float:
    """The intersection of two boxes as a share of the smaller one."""
    sides = [
        min(first[axis] + first[axis + 2], second[axis] + second[axis + 2])
        - max(first[axis], second[axis])
        for axis in (0, 1)
    ]
    smaller = min(first[2] * first[3], second[2] * second[3])
    return max(0.0, sides[0]) * max(0.0, sides[1]) / smaller
