"""Which class is taken for which."""

import numpy as np

from saccade.evaluation.matched import NONE, Integers, Matched, by_image, ious


def confusion(matched: Matched, num_categories: int) -> Integers:
    """[K + 1, K + 1], how often an object of the row's class was found as the column's.

    The last column are objects that nothing found, the last row are detections of nothing.
    Pairs of one class are COCO's. What they leave over is paired across classes, highest
    IoU first, down to the same threshold. Crowds and what lies in them are left out.

    Args:
        matched: Of the detections that a user would see: see `Matched.above`.
        num_categories: K.
    """
    found, objects = matched.found, matched.objects
    pairs = matched.pairs.copy()
    wrong_ones = np.flatnonzero(matched.wrong)
    missed_ones = np.flatnonzero(~objects.crowds & ~matched.objects_found)
    there = {image: missed_ones[rows] for image, rows in by_image(objects.images[missed_ones])}
    for image, rows in by_image(found.images[wrong_ones]):
        if image not in there:
            continue
        wrong, missed = wrong_ones[rows], there[image]
        overlaps = ious(found.boxes[wrong], objects.boxes[missed])
        while overlaps.size and overlaps.max() >= matched.iou_threshold:
            row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
            pairs[wrong[row]] = missed[column]
            overlaps[row], overlaps[:, column] = 0, 0
    told = ~matched.ignored
    truth = np.append(objects.categories, num_categories)[pairs[told]]
    side = num_categories + 1
    cells = truth * side + found.categories[told]
    counts = np.bincount(cells, minlength=side * side).reshape(side, side)
    unfound = ~objects.crowds
    unfound[pairs[told & (pairs != NONE)]] = False
    counts[:, num_categories] += np.bincount(objects.categories[unfound], minlength=side)
    return counts


def confused_pairs(counts: Integers) -> list[tuple[int, int, int]]:
    """Classes taken for others: (true, found as, how often), the most frequent first."""
    between = counts[:-1, :-1].copy()
    np.fill_diagonal(between, 0)
    pairs = [
        (int(row), int(column), int(between[row, column])) for row, column in np.argwhere(between)
    ]
    return sorted(pairs, key=lambda pair: -pair[2])
