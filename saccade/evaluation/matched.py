"""Which detection is which object: COCO's matching at one IoU, kept pair by pair."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from saccade.evaluation.coco_ap import CocoEvaluator

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

NONE = -1
"""In place of an index: no object."""


@dataclass(frozen=True)
class Objects:
    """What people marked, M objects of all images."""

    images: Integers
    """[M], the image's id."""
    categories: Integers
    """[M], from 0 in the order of the evaluator's categories."""
    boxes: Floats
    """[M, 4], ``x0, y0, x1, y1`` in pixels."""
    crowds: Flags
    """[M]; a crowd is not to be found, and what lies in it is neither right nor wrong."""

    def count(self, num_categories: int) -> Integers:
        """[K], how many there are to find of each category."""
        return np.bincount(self.categories[~self.crowds], minlength=num_categories)


@dataclass(frozen=True)
class Detected:
    """What a detector found, N detections of all images."""

    images: Integers
    """[N], the image's id."""
    categories: Integers
    """[N], as in `Objects`."""
    boxes: Floats
    """[N, 4], ``x0, y0, x1, y1`` in pixels."""
    scores: Floats
    """[N], higher is surer."""

    def __getitem__(self, chosen: Any) -> "Detected":
        """Those of a mask or of indices."""
        return Detected(
            self.images[chosen],
            self.categories[chosen],
            self.boxes[chosen],
            self.scores[chosen],
        )


@dataclass(frozen=True)
class Matched:
    """Detections that count, the surest first, and the object that each of them found."""

    found: Detected
    objects: Objects
    pairs: Integers
    """[N], index of the object that a detection found, a crowd too, or `NONE`."""
    iou_threshold: float
    """The least IoU of a pair."""

    @property
    def ignored(self) -> Flags:
        """[N], detections in a crowd, which do not count."""
        return (self.pairs != NONE) & self._of_objects(self.objects.crowds)

    @property
    def right(self) -> Flags:
        """[N], detections that found an object."""
        return (self.pairs != NONE) & ~self.ignored

    @property
    def wrong(self) -> Flags:
        """[N], detections that found neither an object nor a crowd."""
        return self.pairs == NONE

    @property
    def objects_found(self) -> Flags:
        """[M], objects that some detection found."""
        found = np.zeros(len(self.objects.images), bool)
        found[self.pairs[self.right]] = True
        return found

    def above(self, threshold: float) -> "Matched":
        """The same for the detections of at least this score: matching is by falling score."""
        chosen = self.found.scores >= threshold
        return Matched(self.found[chosen], self.objects, self.pairs[chosen], self.iou_threshold)

    def _of_objects(self, flags: Flags) -> Flags:
        """[N], of the object that each detection found; anything where there is none."""
        return flags[self.pairs] if len(flags) else np.zeros(len(self.pairs), bool)


def collected(evaluator: CocoEvaluator) -> tuple[Detected, Objects]:
    """All detections that an evaluator was given, and the objects of its annotation file."""
    annotations = evaluator.annotations
    position = {id: index for index, id in enumerate(annotations.categories)}
    objects = Objects(
        np.array([entry.image_id for entry in annotations.objects], np.int64),
        np.array([position[entry.category_id] for entry in annotations.objects], np.int64),
        _corners([entry.box for entry in annotations.objects]),
        np.array([entry.crowd for entry in annotations.objects], bool),
    )
    entries = evaluator.detections()
    ids = np.array([image.id for image in annotations.images], np.int64)
    boxes = _corners(entries.boxes)
    found = Detected(ids[entries.images], entries.categories, boxes, entries.scores)
    return found, objects


def match(
    found: Detected, objects: Objects, iou_threshold: float = 0.5, max_detections: int = 100
) -> Matched:
    """Match by COCO's rules: within an image and category, by falling score.

    A detection takes the object of highest IoU that is still free. One that has none and
    lies in a crowd (the crowd covers `iou_threshold` of its area) is ignored; a crowd takes any
    number.

    Args:
        found: Of all images.
        objects: Of all images.
        iou_threshold: The least IoU of a pair.
        max_detections: How many count per image and category, the surest first.
    """
    # As COCO: by falling score within image and category, equal scores in the order given.
    order = np.lexsort((-found.scores, found.categories, found.images))
    groups = _groups(found.images[order], found.categories[order])
    counted = np.concatenate([order[group][:max_detections] for group in groups] or [order])
    members: dict[tuple[int, int], list[int]] = {}
    for index, key in enumerate(
        zip(objects.images.tolist(), objects.categories.tolist(), strict=True)
    ):
        members.setdefault(key, []).append(index)
    pairs = np.full(len(found.scores), NONE)
    for group in groups:
        rows = order[group][:max_detections]
        here = members.get((int(found.images[rows[0]]), int(found.categories[rows[0]])))
        if here is not None:
            columns = np.array(here)
            crowds = objects.crowds[columns]
            overlaps = ious(found.boxes[rows], objects.boxes[columns], crowds)
            chosen = _match_group(overlaps, crowds, iou_threshold)
            pairs[rows] = np.where(chosen == NONE, NONE, columns[chosen])
    # Equal scores of different images go by rising id, as in COCO's accumulation; of different
    # categories they never meet.
    falling = counted[np.argsort(-found.scores[counted], kind="stable")]
    return Matched(found[falling], objects, pairs[falling], iou_threshold)


def ious(boxes: Floats, others: Floats, crowds: Flags | None = None) -> Floats:
    """[N, M], intersection over union of corners; of crowds over the area of the first box."""
    corner = np.maximum(boxes[:, None, :2], others[None, :, :2])
    sides = (np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - corner).clip(min=0)
    intersection = sides.prod(-1)
    areas, other_areas = _areas(boxes)[:, None], _areas(others)[None]
    union = areas + other_areas - intersection
    if crowds is not None:
        union = np.where(crowds[None], areas, union)
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=intersection > 0)


def _match_group(overlaps: Floats, crowds: Flags, iou_threshold: float) -> Integers:
    """[D], the column that each row takes, or `NONE`; rows choose in turn."""
    chosen = np.full(len(overlaps), NONE)
    free = ~crowds
    last = overlaps.shape[1] - 1
    for row in np.flatnonzero((overlaps >= iou_threshold).any(1)):
        for allowed in (free, crowds):
            candidates = np.where(allowed, overlaps[row], -1.0)
            # Of equal ones COCO takes the last.
            best = last - int(candidates[::-1].argmax())
            if candidates[best] >= iou_threshold:
                chosen[row] = best
                free[best] = False
                break
    return chosen


def _groups(*keys: Integers) -> list[slice]:
    """Runs of equal keys."""
    changes = np.zeros(max(0, len(keys[0]) - 1), bool)
    for key in keys:
        changes |= key[1:] != key[:-1]
    starts = [0, *(np.flatnonzero(changes) + 1).tolist(), len(keys[0])]
    return [slice(start, end) for start, end in pairwise(starts) if end > start]


def by_image(images: Integers) -> Iterator[tuple[int, Integers]]:
    """Each image's id with the indices of its entries."""
    order = np.argsort(images, kind="stable")
    for group in _groups(images[order]):
        yield int(images[order[group.start]]), order[group]


def _areas(boxes: Floats) -> Floats:
    return (boxes[:, 2:] - boxes[:, :2]).prod(-1)


def _corners(boxes: Floats | list[Any]) -> Floats:
    """A copy, from ``x, y, width, height``."""
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return corners
