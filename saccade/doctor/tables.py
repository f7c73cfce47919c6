"""A dataset's annotations as arrays: all that the checks look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from saccade.data import Annotations
from saccade.doctor.findings import MOST_EXAMPLES, Example

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SplitTable:
    """One split; N objects on I images."""

    name: str
    folder: Path
    """That the file names start from."""
    annotations: Annotations
    class_names: tuple[str, ...]
    """Of the whole dataset."""
    boxes: Floats
    """[N, 4]: ``x0, y0, x1, y1`` in pixels, not clipped."""
    labels: Integers
    """[N]: index into `class_names`."""
    rows: Integers
    """[N]: which image, counted from 0."""
    crowds: Flags
    """[N]"""
    sizes: Integers
    """[I, 2]: (height, width) in pixels."""

    @cached_property
    def clipped(self) -> Floats:
        """[N, 4]: the boxes as far as they lie in their images, as training has them."""
        limits = np.tile(self.sizes[self.rows][:, ::-1], 2)
        return np.minimum(self.boxes.clip(min=0), limits)

    @cached_property
    def trained(self) -> Flags:
        """[N]: which objects training uses: no crowds, and nothing without area in its image."""
        has_area = np.asarray((self.clipped[:, 2:] > self.clipped[:, :2]).all(1))
        return ~self.crowds & has_area

    @cached_property
    def per_image(self) -> Integers:
        """[I]: how many objects of each image training uses."""
        return np.bincount(self.rows[self.trained], minlength=len(self.sizes)).astype(np.int64)

    @cached_property
    def per_class(self) -> Integers:
        """[K]: how many objects of each class training uses."""
        labels = self.labels[self.trained]
        return np.bincount(labels, minlength=len(self.class_names)).astype(np.int64)

    def file(self, row: int) -> Path:
        """Of an image."""
        return self.folder / self.annotations.images[row].file_name

    def files(self) -> list[Path]:
        """Of all images."""
        return [self.folder / entry.file_name for entry in self.annotations.images]

    def example(self, row: int, flagged: Flags | None = None) -> Example:
        """An image with those of its objects that are flagged [N]."""
        height, width = self.sizes[row].tolist()
        found = self.rows == row
        boxes = self.boxes[found & flagged] if flagged is not None else self.boxes[:0]
        corners = tuple((box[0], box[1], box[2], box[3]) for box in boxes.tolist())
        return Example(self.file(row), (height, width), corners)

    def examples(self, flagged: Flags) -> tuple[Example, ...]:
        """The images with the most flagged objects [N]."""
        counts = np.bincount(self.rows[flagged], minlength=len(self.sizes))
        order = np.argsort(-counts, kind="stable")[:MOST_EXAMPLES]
        return tuple(self.example(int(row), flagged) for row in order if counts[row])


@dataclass(frozen=True)
class Tables:
    """The splits that could be read."""

    splits: dict[str, SplitTable]
    class_names: tuple[str, ...]
    """Of all splits; those of the split that is trained on come first, as its detector has them."""
    train: str = "train"
    val: str = "val"

    @property
    def of_training(self) -> SplitTable | None:
        """The split that is trained on."""
        return self.splits.get(self.train)

    @cached_property
    def per_class(self) -> Integers:
        """[K]: how many objects of each class all splits have."""
        found = np.zeros(len(self.class_names), np.int64)
        for table in self.splits.values():
            found += table.per_class
        return found

    @property
    def held_out(self) -> list[SplitTable]:
        """The other splits."""
        return [table for name, table in self.splits.items() if name != self.train]


def tabulate(
    splits: dict[str, tuple[Path, Annotations]], train: str = "train", val: str = "val"
) -> Tables:
    """Annotations as arrays.

    Args:
        splits: The folder of images and the annotations, by the name of the split.
        train: The split that is trained on.
        val: The split that evaluations use.
    """
    order = sorted(splits, key=lambda name: (name != train, name != val))
    names = dict.fromkeys(name for each in order for name in splits[each][1].categories.values())
    class_names = tuple(names)
    return Tables(
        {name: _table(name, *splits[name], class_names) for name in order}, class_names, train, val
    )


def _table(
    name: str, folder: Path, annotations: Annotations, class_names: Sequence[str]
) -> SplitTable:
    objects = annotations.objects
    boxes = np.array([entry.box for entry in objects], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    label_of = {id: class_names.index(each) for id, each in annotations.categories.items()}
    row_of = {image.id: row for row, image in enumerate(annotations.images)}
    count = len(objects)
    return SplitTable(
        name,
        folder,
        annotations,
        tuple(class_names),
        boxes,
        np.fromiter((label_of[entry.category_id] for entry in objects), np.int64, count),
        np.fromiter((row_of[entry.image_id] for entry in objects), np.int64, count),
        np.fromiter((entry.crowd for entry in objects), np.bool_, count),
        np.array([image.size for image in annotations.images], np.int64).reshape(-1, 2),
    )
