"""Boxes that cannot be right."""

from collections.abc import Callable

import numpy as np

from saccade.data import CocoSplit, Split
from saccade.doctor.findings import Finding, Severity, counted, one_or_more, share
from saccade.doctor.tables import Flags, Integers, SplitTable, Tables

MANY_LOST = 0.01
"""The share of a split's objects from which losing them is sure to hurt."""
MANY_TWICE = 0.05
"""The same for objects that are marked twice."""
ALL_BUT_A_FEW = 0.99
"""The share of boxes that tells another format: a few may be wrong in any."""
ROUNDING = 2.0
"""Pixels that a box may stick out of its image: tools round."""
STICKS_OUT = 0.05
"""Of its own side: what sticks out further is told."""


def box_findings(tables: Tables, splits: dict[str, Split]) -> list[Finding]:
    """Boxes of another format, without area, outside the image, or marked twice."""
    findings: list[Finding] = []
    for name, table in tables.splits.items():
        misread = _misread(table, splits.get(name))
        if misread:
            # All the rest would only repeat it.
            findings += misread
            continue
        for check in CHECKS:
            findings += check(table)
    return findings


def _misread(table: SplitTable, split: Split | None) -> list[Finding]:
    boxes, sizes = table.boxes, table.sizes[table.rows]
    if not len(boxes) or not isinstance(split, CocoSplit):
        return []
    near = boxes.max(1) <= 2
    if near.mean() >= ALL_BUT_A_FEW and np.quantile(sizes, 1 - ALL_BUT_A_FEW) > 8:
        return [
            Finding(
                Severity.HURTS,
                "boxes",
                f"{share(int(near.sum()), len(boxes))} of the boxes of {table.name} lie within "
                "2 pixels of the upper left corner: they seem to be fractions of the image, where "
                "COCO's format has pixels",
                "multiply x and width by the image's width, y and height by its height",
                table.examples(table.trained),
            )
        ]
    stored = boxes.copy()
    stored[:, 2:] -= stored[:, :2]
    outside = np.asarray((boxes[:, 2:] > sizes[:, ::-1] + ROUNDING).any(1))
    ordered = (stored[:, 2:] > stored[:, :2]).all(1)
    within = (stored[:, 2:] <= sizes[:, ::-1] + ROUNDING).all(1)
    fits = ordered & within
    if outside.mean() > 0.3 and fits.mean() >= ALL_BUT_A_FEW:
        return [
            Finding(
                Severity.HURTS,
                "boxes",
                f"{share(int(outside.sum()), len(boxes))} of the boxes of {table.name} reach "
                f"beyond their image, and {share(int(fits.sum()), len(boxes))} would fit if their "
                "four numbers were two corners, where COCO's format has x, y, width, height",
                "subtract x from the third number and y from the fourth",
                table.examples(outside),
            )
        ]
    return []


def _without_area(table: SplitTable) -> list[Finding]:
    sides = table.boxes[:, 2:] - table.boxes[:, :2]
    flagged = ~table.crowds & (sides <= 0).any(1)
    return _told(
        table,
        flagged,
        ("has", "have"),
        "no width or no height: training leaves them out, and evaluation counts them as missed",
        "remove them, or mark the objects again",
        MANY_LOST,
    )


def _outside(table: SplitTable) -> list[Finding]:
    sides = table.boxes[:, 2:] - table.boxes[:, :2]
    flagged = ~table.crowds & ~table.trained & (sides > 0).all(1)
    return _told(
        table,
        flagged,
        ("lies", "lie"),
        "wholly outside their image: training leaves them out, and evaluation counts them as "
        "missed",
        "see whether the images were cropped or turned after they were marked",
        MANY_LOST,
    )


def _sticking_out(table: SplitTable) -> list[Finding]:
    beyond = np.abs(table.boxes - table.clipped)
    sides = table.boxes[:, 2:] - table.boxes[:, :2]
    far = np.maximum(ROUNDING, STICKS_OUT * np.tile(sides, 2))
    flagged = table.trained & (beyond > far).any(1)
    return _told(
        table,
        flagged,
        ("sticks", "stick"),
        f"out of their image by more than {100 * STICKS_OUT:.0f} % of their side: training "
        "clips them, evaluation does not, so that what is learnt is counted as less exact",
        "clip them, or see whether the images were cropped, turned or resized after they were "
        "marked",
    )


def _hairlines(table: SplitTable) -> list[Finding]:
    sides = (table.clipped[:, 2:] - table.clipped[:, :2]).min(1)
    flagged = table.trained & (sides < 1)
    return _told(
        table,
        flagged,
        ("is", "are"),
        "thinner than a pixel within their image, too thin to be found",
        "remove them, or mark the objects again",
    )


def _repeated(table: SplitTable) -> list[Finding]:
    key = _keys(table, table.labels)
    flagged = table.trained & _seen_before(key, table.trained)
    return _told(
        table,
        flagged,
        ("repeats", "repeat"),
        "an object of the same class in the same box: a detector that finds each object "
        "once must find these twice, and learns to",
        "remove the copies",
        MANY_TWICE,
    )


def _two_classes(table: SplitTable) -> list[Finding]:
    key, place = _keys(table, table.labels), _keys(table, None)
    again = _seen_before(place, table.trained) & ~_seen_before(key, table.trained)
    flagged = table.trained & again
    findings = _told(
        table,
        flagged,
        ("lies", "lie"),
        "in the very box of an object of another class: only one of the two can be right, "
        "unless your classes overlap",
        "look at the pictures",
    )
    # Datasets with classes that overlap are none of our business.
    return [each for each in findings if flagged.sum() < 0.5 * max(1, table.trained.sum())]


CHECKS: tuple[Callable[[SplitTable], list[Finding]], ...] = (
    _without_area,
    _outside,
    _sticking_out,
    _hairlines,
    _repeated,
    _two_classes,
)


def _told(
    table: SplitTable,
    flagged: Flags,
    verbs: tuple[str, str],
    what: str,
    remedy: str,
    many: float = 1.0,
) -> list[Finding]:
    count, total = int(flagged.sum()), int((~table.crowds).sum())
    if not count:
        return []
    return [
        Finding(
            Severity.HURTS if count > many * total else Severity.LOOK,
            "boxes",
            f"{counted(count, 'box', 'boxes')} of {table.name} ({share(count, total)}) "
            f"{one_or_more(count, *verbs)} {what}",
            remedy,
            table.examples(flagged),
        )
    ]


def _keys(table: SplitTable, labels: Integers | None) -> Integers:
    """[N]: one number for image, box (to a tenth of a pixel) and class, mixed."""
    columns = [table.rows, *np.rint(10 * table.boxes).astype(np.int64).T]
    if labels is not None:
        columns.append(labels)
    key = np.zeros(len(table.rows), np.uint64)
    for column in columns:
        # The constants of splitmix64; what overflows is meant to.
        key = (key ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    return key.astype(np.int64)


def _seen_before(keys: Integers, counted_ones: Flags) -> Flags:
    """[N]: whether the same key comes earlier among those that count."""
    seen = np.zeros(len(keys), np.bool_)
    where = np.flatnonzero(counted_ones)
    _, first = np.unique(keys[where], return_index=True)
    again = np.ones(len(where), np.bool_)
    again[first] = False
    seen[where[again]] = True
    return seen
