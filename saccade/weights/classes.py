"""Which classes of a file are classes of a detector: by their name, never by their number."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_PLACEHOLDER = re.compile(r"class \d+|LABEL_\d+")
_UNUSED = re.compile(r"unused \d+")


@dataclass(frozen=True)
class ClassMatch:
    """For each class of a detector the row that it has in a file's class heads."""

    rows: tuple[int | None, ...]
    """None for a class that the file does not have."""
    kept: tuple[str, ...]
    """Classes whose rows were found, by the detector's names."""
    new: tuple[str, ...]
    """Classes whose rows are random."""
    dropped: tuple[str, ...]
    """Classes of the file that the detector has not; ids that COCO never used are no classes."""
    renamed: tuple[tuple[str, str], ...]
    """(name in the file, name in the detector) where they differ in case or spaces alone."""
    in_order: bool
    """The file has no names, and its rows were taken as they come."""


def match_classes(stored: Sequence[str], wanted: Sequence[str]) -> ClassMatch:
    """Find the classes of a detector among those of a file.

    A class is the one of exactly its name. Where there is none, it is the one whose name differs in
    case, spaces, hyphens and underscores alone, if on either side there is only one such name. A
    file without names of its own, such as "LABEL_0", and with as many classes gives its rows in
    their order; with another number, it gives none.

    >>> match_classes(["cat", "Traffic Light"], ["traffic_light", "fox", "cat"]).rows
    (1, None, 0)
    """
    unnamed = all(_PLACEHOLDER.fullmatch(name) for name in stored)
    if unnamed and tuple(stored) != tuple(wanted):
        if len(stored) == len(wanted):
            order = tuple(range(len(stored)))
            return ClassMatch(order, tuple(wanted), (), (), (), in_order=True)
        stored = [""] * len(stored)
    exact = {name: row for row, name in enumerate(stored) if name}
    similar = _by_folded_name(stored, wanted)
    rows = tuple(exact.get(name, similar.get(name)) for name in wanted)
    pairs = list(zip(wanted, rows, strict=True))
    dropped = (name for row, name in enumerate(stored) if name and row not in rows)
    return ClassMatch(
        rows,
        kept=tuple(name for name, row in pairs if row is not None),
        new=tuple(name for name, row in pairs if row is None),
        dropped=tuple(name for name in dropped if not _UNUSED.fullmatch(name)),
        renamed=tuple(
            (stored[row], name) for name, row in pairs if row is not None and stored[row] != name
        ),
        in_order=False,
    )


def _by_folded_name(stored: Sequence[str], wanted: Sequence[str]) -> dict[str, int]:
    """The rows of wanted names that are alone, on both sides, in what remains of them."""
    rows = {_folded(name): row for row, name in enumerate(stored) if name}
    counts = (Counter(map(_folded, stored)), Counter(map(_folded, wanted)))
    return {
        name: rows[folded]
        for name in wanted
        # What folds to nothing, such as "-", is like any other such name.
        if (folded := _folded(name)) and all(count[folded] == 1 for count in counts)
    }


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()
