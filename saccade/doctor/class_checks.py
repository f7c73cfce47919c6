"""How the objects are spread over the classes."""

import numpy as np

from saccade.doctor.findings import Finding, Severity, counted, listed, one_or_more
from saccade.doctor.tables import SplitTable, Tables

FEW = 10
"""Objects of a class below which training hardly learns it."""
IMBALANCE = 100
"""Objects of the commonest class for one of the rarest."""


def class_findings(tables: Tables) -> list[Finding]:
    """Classes that cannot be learnt or judged."""
    train = tables.of_training
    if train is None:
        return []
    if not train.trained.any():
        return [
            Finding(
                Severity.HURTS,
                "classes",
                f"no object is marked on the {counted(len(train.sizes), 'image')} of {train.name}, "
                "so that there is nothing to learn",
                "look at the annotation files; YOLO's labels must lie beside the images or in "
                '"labels" instead of "images"',
            )
        ]
    return [
        *_never_trained(tables, train),
        *_unused(tables),
        *_few(tables, train),
        *_empty_images(tables),
    ]


def _never_trained(tables: Tables, train: SplitTable) -> list[Finding]:
    findings = []
    for table in tables.held_out:
        missing = np.flatnonzero((train.per_class == 0) & (table.per_class > 0))
        if not len(missing):
            continue
        names = [tables.class_names[k] for k in missing]
        objects = int(table.per_class[missing].sum())
        judged = int((table.per_class > 0).sum())
        findings.append(
            Finding(
                Severity.HURTS if table.name == tables.val else Severity.LOOK,
                "classes",
                f"{len(names)} of the {judged} classes that are evaluated on {table.name} "
                f"{one_or_more(len(names), 'has', 'have')} no object to train on "
                f"({listed(names)}; {counted(objects, 'object')} there): their AP will be 0 and "
                "lower the mean",
                f"move some of their images to {train.name}, or remove the classes",
            )
        )
    return findings


def _unused(tables: Tables) -> list[Finding]:
    counts = tables.per_class.tolist()
    unused = [name for name, count in zip(tables.class_names, counts, strict=True) if not count]
    if not unused:
        return []
    return [
        Finding(
            Severity.INFORMATION,
            "classes",
            f"{counted(len(unused), 'class is', 'classes are')} listed that no object is of "
            f"({listed(unused)})",
            "remove them from the list of classes, unless the numbers are to stay as they are",
        )
    ]


def _few(tables: Tables, train: SplitTable) -> list[Finding]:
    counts = train.per_class
    some = counts[counts > 0]
    few = np.flatnonzero((counts > 0) & (counts < FEW))
    if len(few):
        rarest = few[np.argsort(counts[few], kind="stable")]
        names = [f"{tables.class_names[k]} {counts[k]}" for k in rarest]
        return [
            Finding(
                Severity.LOOK,
                "classes",
                f"{counted(len(few), 'class has', 'classes have')} fewer than {FEW} objects to "
                f"train on ({listed(names)}), too few to be learnt from random weights",
                "mark more of them, or start from weights that know the class (--weights)",
            )
        ]
    if some.max() >= IMBALANCE * some.min():
        most, least = (tables.class_names[int(k)] for k in (counts.argmax(), _rarest(counts)))
        return [
            Finding(
                Severity.LOOK,
                "classes",
                f'"{most}" has {some.max():,} objects in {train.name}, "{least}" {some.min():,}: '
                "the common class decides most gradients, while every class counts alike in AP",
                f'mark more of "{least}", or judge by the AP of each class',
            )
        ]
    return []


def _rarest(counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
    return int(np.where(counts > 0, counts, counts.max() + 1).argmin())


def _empty_images(tables: Tables) -> list[Finding]:
    findings = []
    for table in tables.splits.values():
        empty = int((table.per_image == 0).sum())
        if not empty:
            continue
        many = empty > 0.5 * len(table.sizes)
        rows = np.flatnonzero(table.per_image == 0)[:4]
        findings.append(
            Finding(
                Severity.LOOK if many else Severity.INFORMATION,
                "empty images",
                f"{empty:,} of {counted(len(table.sizes), 'image')} of {table.name} "
                f"{one_or_more(empty, 'has no object, and teaches', 'have no object, and teach')} "
                "that what is there is background",
                "see that no labels are missing, for a forgotten one teaches to find nothing",
                tuple(table.example(int(row)) for row in rows),
            )
        )
    return findings
