"""What a study is: detectors to train side by side, and what is published of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from saccade.config import DetectorConfig

Size = Literal["nano", "r50"]
"""All rows small and alike but for the step that the study compares, or as they are published."""
SIZES: tuple[Size, ...] = get_args(Size)


@dataclass(frozen=True)
class Published:
    """What a source reports on COCO."""

    source: str
    epochs: int
    numbers: tuple[float, ...]
    """AP, AP50, AP75 and AP of small, medium and large objects, in percent; or AP alone."""


@dataclass(frozen=True)
class Row:
    """One detector of a study."""

    key: str
    """Names the folder of its runs."""
    label: str
    build: Callable[[Size], DetectorConfig]
    published: Published | None = None
    times: int = 1
    """How many times the study's budget it trains: DETR's 500 epochs are ten times the usual 50."""
    sizes: tuple[Size, ...] = SIZES
    """Where it takes part."""


@dataclass(frozen=True)
class Study:
    """Detectors that are compared, and what the comparison asks."""

    name: str
    title: str
    question: str
    rows: tuple[Row, ...]

    def pick(self, size: Size, keys: Sequence[str] = ()) -> tuple[Row, ...]:
        """The rows of these keys, in the order of the study; all of them for no key.

        Raises:
            ValueError: If there is no such row at this size.
        """
        rows = [row for row in self.rows if size in row.sizes]
        known = [row.key for row in rows]
        for key in keys:
            if key not in known:
                raise ValueError(
                    f'the study "{self.name}" has no row "{key}" at the size {size}: expected '
                    f"some of {' '.join(known)}."
                )
        return tuple(row for row in rows if not keys or row.key in keys)
