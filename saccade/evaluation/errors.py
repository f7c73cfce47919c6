"""What kind of error costs how much: the decomposition of TIDE.

Bolya, Foley, Hays and Hoffman: TIDE, a general toolbox for identifying object detection errors,
ECCV 2020, section 2.
"""

from dataclasses import dataclass

import numpy as np

from saccade.evaluation.matched import NONE, Flags, Floats, Integers, Matched, by_image, ious
from saccade.evaluation.precision_recall import average_precisions, mean_over_classes

KINDS = {
    "classification": "the box is an object's (IoU at least 0.5), the class is not",
    "localisation": "the class is right, the box is poor (IoU 0.1 to 0.5)",
    "both": "the box is poor, and the class is another one",
    "duplicate": "the object was found already, by a surer detection",
    "background": "nothing is marked there (IoU below 0.1)",
    "missed": "an object that no detection found, not even with an error of class or box",
}
"""TIDE's six kinds, in its order, and what they mean at its thresholds."""
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(KINDS))


@dataclass(frozen=True)
class Errors:
    """What is wrong with the detections of a matching."""

    matched: Matched
    kinds: Integers
    """[N], index into `KINDS` of every wrong detection, `NONE` of the others."""
    meant: Integers
    """[N], the object that a wrong class or poor box belongs to, `NONE` for other kinds."""
    missed: Flags
    """[M], objects not found that no wrong class or poor box belongs to."""

    @property
    def counts(self) -> dict[str, int]:
        """How many errors there are of each kind."""
        counts = {name: int((self.kinds == kind).sum()) for kind, name in enumerate(KINDS)}
        return counts | {"missed": int(self.missed.sum())}


def decompose(matched: Matched, background: float = 0.1) -> Errors:
    """Give every wrong detection and every missed object its kind.

    Tested in this order, as the authors' code does: localisation, classification, duplicate,
    background; what is left is both. Detections in crowds are no errors here, as they cost no AP;
    the authors' code decomposes them too. Without crowds both agree.

    Args:
        matched: Its threshold is TIDE's foreground threshold.
        background: A detection whose highest IoU is below has found nothing.
    """
    found, objects = matched.found, matched.objects
    kinds = np.full(len(found.scores), NONE)
    meant = np.full(len(found.scores), NONE)
    wrong = np.flatnonzero(matched.wrong)
    marked = np.flatnonzero(~objects.crowds)
    there = {image: marked[rows] for image, rows in by_image(objects.images[marked])}
    for image, rows in by_image(found.images[wrong]):
        rows = wrong[rows]
        if image not in there:
            kinds[rows] = BACKGROUND
            continue
        columns = there[image]
        overlaps = ious(found.boxes[rows], objects.boxes[columns])
        same = found.categories[rows, None] == objects.categories[None, columns]
        kinds[rows], best = _kinds(overlaps, same, matched.iou_threshold, background)
        meant[rows] = np.where(best == NONE, NONE, columns[best])
    unexplained = ~objects.crowds & ~matched.objects_found
    unexplained[meant[meant != NONE]] = False
    return Errors(matched, kinds, meant, unexplained)


def gains(errors: Errors, num_categories: int) -> dict[str, float]:
    """AP that perfecting one kind of error alone would add: at the matching's IoU, in [0, 1].

    Wrong classes and poor boxes are corrected; of several for one object, and where it is found
    already, only the surest can be, and the others are removed. Both, duplicate and
    background are removed. Missed objects need not be found.
    """
    matched = errors.matched
    num_objects = matched.objects.count(num_categories)
    corrected = _correctable(errors)

    def mean_ap(kind: int) -> float:
        of_kind = errors.kinds == kind
        fixed = of_kind & corrected
        kept = ~matched.ignored & ~(of_kind & ~corrected)
        categories = matched.found.categories.copy()
        categories[fixed] = matched.objects.categories[errors.meant[fixed]]
        right = (matched.right | fixed)[kept]
        left = num_objects
        if kind == MISSED:
            missed = matched.objects.categories[errors.missed]
            left = num_objects - np.bincount(missed, minlength=num_categories)
        values = average_precisions(categories[kept], right, left)
        # A class that has detections still, but nothing left to find, has no precision at all.
        told = np.bincount(categories[kept], minlength=num_categories) > 0
        values[told & (left == 0) & (num_objects > 0)] = 0
        return mean_over_classes(values)

    before = mean_ap(len(KINDS))  # No kind at all.
    return {name: max(0.0, mean_ap(kind) - before) for kind, name in enumerate(KINDS)}


def image_weights(errors: Errors) -> dict[int, float]:
    """How bad each image with an error is: a wrong detection weighs its score, an object missed 1.

    An object counts as missed if no detection found it, whatever the reason.
    """
    matched = errors.matched
    weights: dict[int, float] = {}
    lost = ~matched.objects_found & ~matched.objects.crowds
    for image in matched.objects.images[lost].tolist():
        weights[image] = weights.get(image, 0.0) + 1
    for image, score in zip(
        matched.found.images[matched.wrong].tolist(),
        matched.found.scores[matched.wrong].tolist(),
        strict=True,
    ):
        weights[image] = weights.get(image, 0.0) + score
    return weights


def _kinds(
    overlaps: Floats, same: Flags, foreground: float, background: float
) -> tuple[Integers, Integers]:
    """[D] kinds, and [D] the column that is meant or `NONE`."""
    own, other = np.where(same, overlaps, 0.0), np.where(same, 0.0, overlaps)
    own_best, other_best = own.max(1), other.max(1)
    poor = (own_best >= background) & (own_best < foreground)
    confused = ~poor & (other_best >= foreground)
    kinds = np.select(
        [poor, confused, own_best >= foreground, np.maximum(own_best, other_best) < background],
        [LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND],
        BOTH,
    )
    best = np.select([poor, confused], [own.argmax(1), other.argmax(1)], NONE)
    return kinds, best


def _correctable(errors: Errors) -> Flags:
    """[N], the surest of the wrong classes and poor boxes of each object not found."""
    candidates = np.flatnonzero(errors.meant != NONE)
    candidates = candidates[~errors.matched.objects_found[errors.meant[candidates]]]
    # Detections come by falling score: the first of each object is the surest.
    _, first = np.unique(errors.meant[candidates], return_index=True)
    flags = np.zeros(len(errors.kinds), bool)
    flags[candidates[first]] = True
    return flags
