"""COCO's matching and accumulation of compact arrays, by faster-coco-eval."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from faster_coco_eval import COCO, COCOeval_faster

from saccade.data.annotations import Annotations

NUM_THRESHOLDS, NUM_RECALLS, NUM_AREAS = 10, 101, 4
"""IoU 0.50, 0.55 ... 0.95; recall 0, 0.01 ... 1; all, small, medium and large objects."""
MOST_AT_ONCE = 50_000
"""Objects and detections that are given to the engine together, unless one category has more: it
takes a dictionary for each, some twenty times as large as the arrays."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Detections:
    """What a detector found, N detections by rising image, of an image in the order given."""

    images: npt.NDArray[np.int64]
    """[N], position among the annotations' images."""
    categories: npt.NDArray[np.int64]
    """[N], position among the annotations' categories."""
    boxes: Array
    """[N, 4], ``x, y, width, height`` in pixels of the original image."""
    scores: Array
    """[N], higher is surer."""


@dataclass(frozen=True)
class Accumulated:
    """COCO's arrays; -1 where a category has nothing to find."""

    precision: Array
    """[10, 101, K, 4, M]: IoU threshold, recall, category, area (all, small, medium, large), limit
    of detections."""
    recall: Array
    """[10, K, 4, M], the highest recall."""
    counts: tuple[int, ...]
    """[M], the limits: detections per image and class."""


def accumulate(annotations: Annotations, found: Detections, limits: set[int]) -> Accumulated:
    """The arrays that pycocotools' ``accumulate`` would give, for every limit of detections.

    Categories do not touch each other: groups of them are handed over in turn, which bounds the
    memory, and images without an object or detection of a group are left out.

    Args:
        annotations: The ground truth.
        found: Of its images and categories.
        limits: How many detections count per image and category, each at least 1.
    """
    counts = tuple(sorted(limits))
    shape = (NUM_THRESHOLDS, NUM_RECALLS, len(annotations.categories), NUM_AREAS, len(counts))
    precision = np.full(shape, -1.0)
    recall = np.full((NUM_THRESHOLDS, *shape[2:]), -1.0)
    objects = _objects_by_category(annotations)
    # A stable sort keeps the order of equal scores, which decides.
    order = np.argsort(found.categories, kind="stable")
    places = np.searchsorted(found.categories[order], np.arange(len(objects) + 1))
    sizes = np.array([len(entries) for entries in objects]) + np.diff(places)
    for group in _groups(sizes.tolist()):
        truth = [entry for k in group for entry in objects[k]]
        if not truth:
            continue
        told = _entries(found, order[places[group.start] : places[group.stop]])
        images = sorted({entry["image_id"] for entry in (*truth, *told)})
        evaluation = COCOeval_faster(
            _indexed(truth, images, group), _indexed(told, images, group), "bbox"
        )
        evaluation.params.maxDets = list(counts)
        evaluation.evaluate()
        evaluation.accumulate()
        precision[:, :, group.start : group.stop] = evaluation.eval["precision"]
        recall[:, group.start : group.stop] = evaluation.eval["recall"]
    return Accumulated(precision, recall, counts)


def _groups(sizes: list[int]) -> Iterator[range]:
    """Neighbouring categories of at most `MOST_AT_ONCE` entries together."""
    start = total = 0
    for k, size in enumerate(sizes):
        if k > start and total + size > MOST_AT_ONCE:
            yield range(start, k)
            start, total = k, 0
        total += size
    if sizes:
        yield range(start, len(sizes))


def _objects_by_category(annotations: Annotations) -> list[list[dict[str, Any]]]:
    image_of = {entry.id: place for place, entry in enumerate(annotations.images)}
    category_of = {id: place for place, id in enumerate(annotations.categories)}
    objects: list[list[dict[str, Any]]] = [[] for _ in category_of]
    for entry in annotations.objects:
        place = category_of[entry.category_id]
        objects[place].append(
            {
                "image_id": image_of[entry.image_id],
                "category_id": place,
                "bbox": list(entry.box),
                "area": entry.area,
                "iscrowd": int(entry.crowd),
            }
        )
    return objects


def _entries(found: Detections, rows: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    columns = (found.images, found.categories, found.boxes, found.scores)
    return [
        {
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "score": score,
        }
        for image, category, box, score in zip(
            *(column[rows].tolist() for column in columns), strict=True
        )
    ]


def _indexed(entries: list[dict[str, Any]], images: list[int], group: range) -> Any:
    """The `entries` as an indexed COCO object over these images and categories.

    They are numbered from 1: COCO's matching takes the id 0 for "not matched".
    """
    indexed = COCO()
    indexed.dataset = {
        "images": [{"id": image} for image in images],
        "categories": [{"id": place} for place in group],
        "annotations": [entry | {"id": number} for number, entry in enumerate(entries, start=1)],
    }
    indexed.createIndex()
    return indexed
