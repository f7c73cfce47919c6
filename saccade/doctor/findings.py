"""What the doctor says: sentences, how bad each is, and the pictures that show it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

MOST_EXAMPLES = 4
"""Pictures of one finding."""


class Severity(IntEnum):
    """How bad it is."""

    INFORMATION = 0
    LOOK = 1
    """Worth a look: it may be meant."""
    HURTS = 2
    """Sure to hurt."""


TITLES = {
    Severity.HURTS: "Sure to hurt",
    Severity.LOOK: "Worth a look",
    Severity.INFORMATION: "For information",
}


@dataclass(frozen=True)
class Example:
    """An image, with what is wrong on it."""

    file: Path
    size: tuple[int, int]
    """(height, width) in pixels, as the annotations say."""
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    """``x0, y0, x1, y1`` in pixels; they may lie outside the image."""


@dataclass(frozen=True)
class Finding:
    """One sentence: what is there and why it matters, then what to do about it."""

    severity: Severity
    topic: str
    """What it is about, in a word or two; the same for all findings of one kind."""
    what: str
    remedy: str = ""
    examples: tuple[Example, ...] = ()
    pairs: tuple[tuple[Example, Example], ...] = ()
    """Images that are alike, side by side."""

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}." if self.remedy else f"{self.what}."


def hurts(findings: Sequence[Finding]) -> list[Finding]:
    """Those that are sure to hurt."""
    return [each for each in findings if each.severity is Severity.HURTS]


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """The same, by severity; the order within one stays."""
    return sorted(findings, key=lambda each: -each.severity)


def counted(number: int, thing: str, things: str = "") -> str:
    """A number and its noun.

    >>> counted(1, "image"), counted(2000, "box", "boxes")
    ('1 image', '2,000 boxes')
    """
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"


def one_or_more(number: int, one: str, more: str) -> str:
    """The form of a verb that fits a number.

    >>> one_or_more(1, "is", "are"), one_or_more(0, "is", "are")
    ('is', 'are')
    """
    return one if number == 1 else more


def share(part: int, whole: int) -> str:
    """A share in percent that never rounds something to nothing or to all.

    >>> share(1, 3), share(1, 10_000), share(9_999, 10_000), share(2, 2)
    ('33 %', 'less than 1 %', 'more than 99 %', '100 %')
    """
    percent = 100 * part / max(1, whole)
    if 0 < percent < 1:
        return "less than 1 %"
    if 99 < percent < 100:
        return "more than 99 %"
    return f"{percent:.0f} %"


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most:,} more"
