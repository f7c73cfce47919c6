"""Precision against recall, COCO's average precision of it, and the score to cut at."""

from dataclasses import dataclass

import numpy as np

from saccade.evaluation.matched import Flags, Floats, Integers, Matched

RECALLS = np.linspace(0, 1, 101)
"""Where COCO reads precision off."""


@dataclass(frozen=True)
class Cut:
    """Precision and recall of all detections of at least a score, in [0, 1]."""

    score: float
    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def interpolated_precision(right: Flags, num_objects: int) -> Floats:
    """[101], the best precision at `RECALLS` or beyond; zero beyond the highest recall reached.

    Args:
        right: [N], by falling score, whether each detection found an object; ignored ones left out.
        num_objects: How many there are to find, at least 1.
    """
    hits = right.cumsum()
    precision = hits / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    first = np.searchsorted(hits / num_objects, RECALLS)
    return np.append(envelope, 0.0)[first]


def average_precision(right: Flags, num_objects: int) -> float:
    """COCO's: the mean of `interpolated_precision`; -1 where there is nothing to find.

    >>> round(average_precision(np.array([True, False, True]), 2), 4)
    0.835
    """
    return float(interpolated_precision(right, num_objects).mean()) if num_objects else -1.0


def average_precisions(categories: Integers, right: Flags, num_objects: Integers) -> Floats:
    """[K], `average_precision` of each category.

    Args:
        categories: [N], of detections by falling score, ignored ones left out.
        right: [N], whether each found an object.
        num_objects: [K], how many there are to find of each category.
    """
    return np.array(
        [average_precision(right[categories == k], int(n)) for k, n in enumerate(num_objects)]
    )


def mean_over_classes(values: Floats) -> float:
    """The mean of what is defined; -1 where nothing is."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


def best_cut(matched: Matched) -> Cut | None:
    """The score whose detections have the highest F1 over all classes together.

    None without detections or without objects.
    """
    kept = ~matched.ignored
    num_objects = int((~matched.objects.crowds).sum())
    scores = matched.found.scores[kept]
    if not len(scores) or not num_objects:
        return None
    hits = matched.right[kept].cumsum()
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + num_objects)
    # A cut takes all detections of equal score or none.
    f1[:-1][scores[1:] == scores[:-1]] = -1
    best = int(f1.argmax())
    return Cut(float(scores[best]), float(hits[best] / (best + 1)), float(hits[best] / num_objects))


def cut_at(matched: Matched, threshold: float, category: int) -> Cut:
    """Precision and recall of one category's detections of at least `threshold`.

    Precision is 1 without detections, recall 0 without objects.
    """
    kept = (matched.found.categories == category) & (matched.found.scores >= threshold)
    hits = int(matched.right[kept].sum())
    told = hits + int(matched.wrong[kept].sum())
    objects = matched.objects
    num_objects = int(((objects.categories == category) & ~objects.crowds).sum())
    return Cut(threshold, hits / told if told else 1.0, hits / num_objects if num_objects else 0.0)
