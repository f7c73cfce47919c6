"""Class numbers that are off by one: what the files say before anything is checked."""

import json
import re
from collections.abc import Set
from pathlib import Path

from saccade.data import CocoSplit, Split
from saccade.data.voc import VocSplit
from saccade.data.yolo import YoloSplit
from saccade.doctor.findings import Finding, Severity, counted, share
from saccade.doctor.tables import Tables

MOST_FILES = 2000
"""Label files that are read again to explain a wrong number."""
_NUMBER = re.compile(r"-?\d{1,18}", re.ASCII)


def explain_numbers(split: Split) -> str | None:
    """Why a split's class numbers do not fit its list of classes, and what to do.

    Returns:
        None where they fit, or where it is not the numbers.
    """
    if isinstance(split, YoloSplit):
        used, known = _yolo_numbers(split), set(split.class_names)
    elif isinstance(split, CocoSplit):
        used, known = _coco_numbers(split.annotations)
    else:
        return None
    unknown = used - known
    if not unknown or not known:
        return None
    numbers = f"used are {_range(used)}, listed {_range(known)}"
    # YOLO counts from 0, COCO mostly from 1; what differs the other way has other reasons.
    of_yolo = isinstance(split, YoloSplit)
    if {number - 1 if of_yolo else number + 1 for number in used} <= known:
        where, verb = ("from 1", "subtract 1 from") if of_yolo else ("from 0", "add 1 to")
        return f"the labels seem to count {where} ({numbers}); {verb} each of them"
    return f"{numbers}; list the missing classes, or remove their objects"


def number_findings(tables: Tables, splits: dict[str, Split]) -> list[Finding]:
    """Signs that classes or corners count from another number than the format does."""
    findings = [
        *_first_unused(tables, isinstance(splits.get(tables.train), YoloSplit)),
        *_ids_differ(tables),
    ]
    for name, split in splits.items():
        if isinstance(split, VocSplit) and name in tables.splits:
            findings += _zero_corners(tables, name)
    return findings


def _first_unused(tables: Tables, of_yolo: bool) -> list[Finding]:
    train = tables.of_training
    if train is None or len(train.annotations.categories) < 3:
        return []
    used = tables.per_class > 0
    first, *others = train.annotations.categories.values()
    unused = not used[tables.class_names.index(first)]
    if not unused or not all(used[tables.class_names.index(name)] for name in others):
        return []
    if first.lower().strip("_ ") in ("background", "bg"):
        return [
            Finding(
                Severity.LOOK,
                "class numbers",
                f'the first class is "{first}" and no object is of it: a detector needs no class '
                "for the background, and this one only lowers the mean",
                "remove it from the list of classes, and renumber the labels if they are numbers",
            )
        ]
    if not of_yolo:
        # Elsewhere objects name their class, by an id or by its name, and none is the first.
        return []
    return [
        Finding(
            Severity.LOOK,
            "class numbers",
            f'no object is of the first class, "{first}", while all the other '
            f"{len(others)} classes are used, which is what labels that count from 1 look like",
            "look at the names in the pictures of the report, and if they are wrong subtract 1 "
            "from each label",
        )
    ]


def _ids_differ(tables: Tables) -> list[Finding]:
    train = tables.of_training
    findings = []
    for table in tables.held_out if train else []:
        own = table.annotations.categories
        theirs = train.annotations.categories if train else {}
        other = {id: name for id, name in own.items() if theirs.get(id, name) != name}
        if not other:
            continue
        id, name = next(iter(other.items()))
        shifted = all(theirs.get(id + step) == name for step in (1,) for id, name in own.items())
        shifted |= all(theirs.get(id - 1) == name for id, name in own.items())
        findings.append(
            Finding(
                Severity.INFORMATION if shifted else Severity.LOOK,
                "class numbers",
                f'category {id} is "{theirs[id]}" in {train.name if train else ""} but "{name}" in '
                f"{table.name}, and {counted(len(other), 'category', 'categories')} differ so; "
                "classes are matched by name here, so that this hurts only if the names are wrong",
                "look at the pictures of both splits",
            )
        )
    return findings


def _zero_corners(tables: Tables, name: str) -> list[Finding]:
    table = tables.splits[name]
    at_zero = (table.boxes[:, :2] == -1).any(1)
    if not at_zero.any():
        return []
    return [
        Finding(
            Severity.LOOK,
            "boxes",
            f"{counted(int(at_zero.sum()), 'box', 'boxes')} of {name} "
            f"({share(int(at_zero.sum()), len(at_zero))}) have an xmin or ymin of 0, where Pascal "
            "VOC counts pixels from 1: all boxes of such a tool lie one pixel to the upper left",
            "add 1 to all corners, or convert to COCO's format; large objects do not mind",
            table.examples(at_zero),
        )
    ]


def _yolo_numbers(split: YoloSplit) -> set[int]:
    used = set()
    for file in split.annotation_files()[1:][:MOST_FILES]:
        try:
            lines = file.read_text("utf-8-sig", errors="replace").split("\n")
        except OSError:
            continue
        for line in lines:
            first = line.split(maxsplit=1)[:1]
            # Not of any length: Python refuses to read thousands of digits.
            if first and _NUMBER.fullmatch(first[0]):
                used.add(int(first[0]))
    return used


def _coco_numbers(file: Path) -> tuple[set[int], set[int]]:
    try:
        content = json.loads(file.read_bytes())
        used = {int(entry["category_id"]) for entry in content["annotations"]}
        known = {int(entry["id"]) for entry in content["categories"]}
    except (ValueError, KeyError, TypeError, OSError, OverflowError, RecursionError):
        return set(), set()
    return used, known


def _range(numbers: Set[int]) -> str:
    least, most = min(numbers), max(numbers)
    if least == most:
        return str(least)
    gaps = "" if len(numbers) == most - least + 1 else ", with gaps"
    return f"{least} to {most}{gaps}"
