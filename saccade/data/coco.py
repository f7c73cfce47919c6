"""Datasets in COCO's format, in the folder layouts that people have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saccade.data.annotations import Annotations, read_annotations
from saccade.data.dataset import DetectionDataset, Transform
from saccade.data.images import read_image
from saccade.structures import Sample, Targets


@dataclass(frozen=True)
class Split:
    """One part of a dataset on disk."""

    images: Path
    """The folder that the annotation file's file names start from."""
    annotations: Path
    """A COCO annotation file."""


def find_split(folder: Path, split: str) -> Split:
    """Find one split of a COCO-style dataset.

    Looked for, in this order: ``annotations/{split}.json`` with ``images/``; COCO's own
    ``annotations/instances_{split}2017.json`` with ``{split}2017/``, or the exact name
    (``split="val2017"``); Roboflow's ``{split}/_annotations.coco.json``, where ``valid`` also
    answers to ``val``.

    Raises:
        ValueError: If no layout fits; the message names what was looked for and the splits found.
    """
    candidates = _candidates(folder, split)
    for candidate in candidates:
        if candidate.annotations.is_file() and candidate.images.is_dir():
            return candidate
    sought = "; ".join(
        f"{candidate.annotations.relative_to(folder)} with {candidate.images.relative_to(folder)}/"
        for candidate in candidates
    )
    splits = ", ".join(_splits(folder)) or "none"
    raise ValueError(
        f'{folder} has no split "{split}": looked for {sought}. Splits there: {splits}.'
    )


def _candidates(folder: Path, split: str) -> list[Split]:
    layouts = [
        ("images", f"annotations/{split}.json"),
        (f"{split}2017", f"annotations/instances_{split}2017.json"),
        (split, f"annotations/instances_{split}.json"),
        (split, f"{split}/_annotations.coco.json"),
    ]
    if split == "val":
        layouts.append(("valid", "valid/_annotations.coco.json"))
    return [Split(folder / images, folder / annotations) for images, annotations in layouts]


def _splits(folder: Path) -> list[str]:
    names = {file.stem.removeprefix("instances_") for file in folder.glob("annotations/*.json")}
    names |= {file.parent.name for file in folder.glob("*/_annotations.coco.json")}
    return sorted(
        name
        for name in names
        if any(c.annotations.is_file() and c.images.is_dir() for c in _candidates(folder, name))
    )


class CocoDataset(DetectionDataset):
    """The images of a COCO annotation file, in rising order of id.

    Crowds and boxes without area are left out and boxes are clipped to the image, as in the
    official code of DETR and Deformable DETR. Images without objects are kept.
    """

    def __init__(
        self,
        split: Split,
        class_names: Sequence[str] | None = None,
        transform: Transform | None = None,
        seed: int = 0,
    ) -> None:
        """Read and check the annotation file; images are read when asked for.

        Args:
            split: See `find_split`.
            class_names: A detector's classes: labels become indices into them, matched by name.
                By default the file's categories in rising order of id.
            transform: Applied to every sample; see `DetectionDataset` for its randomness.
            seed: Of the order and of the augmentation.

        Raises:
            OSError: If the annotation file cannot be opened.
            ValueError: If it is unusable (see `read_annotations`), or has a category that
                `class_names` lacks.
        """
        annotations = read_annotations(split.annotations)
        names = tuple(annotations.categories.values()) if class_names is None else class_names
        super().__init__(names, transform, seed)
        self.split = split
        ids = {name: id for id, name in annotations.categories.items()}
        unknown = [name for name in ids if name not in self.class_names]
        if unknown:
            raise ValueError(
                f"{split.annotations} has categories that the detector does not know: "
                f"{', '.join(unknown)}. It knows {', '.join(self.class_names)}; rename or remove "
                "the former, or make a detector with these classes."
            )
        label_of = {id: self.class_names.index(name) for name, id in ids.items()}
        self._boxes, self._labels, counts = _targets(annotations, label_of)
        self._images = annotations.images
        ends = counts.cumsum(0)
        self._ranges = torch.stack([ends - counts, ends], 1).tolist()

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> Sample:
        """The sample as stored: uint8 RGB [3, H, W], boxes as corners in pixels, no transform.

        Raises:
            FileNotFoundError: If the image is missing.
            ValueError: If the image is broken, or not as large as the annotations say.
        """
        image = self._images[index]
        start, end = self._ranges[index]
        file = self.split.images / image.file_name
        targets = Targets(
            boxes=self._boxes[start:end].clone(),
            labels=self._labels[start:end].clone(),
            size=image.size,
            image_id=image.id,
        )
        return Sample(read_image(file, image.size), targets, file)


def _targets(
    annotations: Annotations, label_of: Mapping[int, int]
) -> tuple[Float[Tensor, "N 4"], Int64[Tensor, " N"], Int64[Tensor, " images"]]:
    """Boxes as clipped corners in pixels, labels, and the number of objects of each image.

    One tensor for all images: workers then share memory that Python objects would copy.
    """
    row_of = {image.id: row for row, image in enumerate(annotations.images)}
    objects = [entry for entry in annotations.objects if not entry.crowd]
    rows = torch.tensor([row_of[entry.image_id] for entry in objects], dtype=torch.int64)
    labels = torch.tensor([label_of[entry.category_id] for entry in objects], dtype=torch.int64)
    boxes = torch.tensor([entry.box for entry in objects]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    sizes = torch.tensor([image.size for image in annotations.images]).reshape(-1, 2)
    limits = sizes.flip(1).repeat(1, 2)[rows]
    boxes = boxes.clamp(min=0).minimum(limits)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)
    rows, order = rows[has_area].sort(stable=True)
    counts = torch.bincount(rows, minlength=len(annotations.images))
    return boxes[has_area][order], labels[has_area][order], counts
