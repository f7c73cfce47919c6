"""What became of a file's content, in a few lines."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from saccade.weights.classes import ClassMatch


@dataclass(frozen=True)
class Amount:
    """Some tensors and the numbers in them."""

    tensors: int = 0
    numbers: int = 0

    def __str__(self) -> str:
        return f"{self.tensors} ({_short(self.numbers)})" if self.tensors else ""


@dataclass(frozen=True)
class PartReport:
    """What became of one part of the detector, such as its encoder."""

    loaded: Amount
    """As they are in the file."""
    adapted: Amount
    """Rows of other classes or queries beside the file's."""
    new: Amount
    """Nothing in them is from the file."""
    from_file: int
    """How many of the numbers the file gave."""


@dataclass(frozen=True)
class LoadReport:
    """What became of a file's content; ``str`` makes a few lines of it."""

    source: str
    layout: str
    """"saccade", "official" or "transformers"."""
    parts: Mapping[str, PartReport]
    """By the attribute of the detector's module, such as "encoder"."""
    classes: ClassMatch | None = None
    """With other classes than the stored ones: how they were found."""
    queries: tuple[int, int] | None = None
    """With another number of queries than the stored one: that of the file, and of the detector."""
    left_out: tuple[str, ...] = ()
    """Tensors of the file that the detector has no place for."""
    added: tuple[str, ...] = ()
    """Tensors that are not in the file: offsets of convolutions that are deformable only in the
    detector, zeros, and parts that only training has."""
    random: tuple[str, ...] = ()
    """Tensors that are not, or not all, from the file and must be trained."""

    @property
    def loaded(self) -> int:
        """Tensors of the detector that came from the file, wholly or in part."""
        return sum(part.loaded.tensors + part.adapted.tensors for part in self.parts.values())

    @property
    def kept(self) -> tuple[str, ...]:
        """With other classes than the stored ones: those found by name. Otherwise empty."""
        return () if self.classes is None else self.classes.kept

    @property
    def new(self) -> tuple[str, ...]:
        """Classes whose rows in the class heads are random and must be trained."""
        return () if self.classes is None else self.classes.new

    @property
    def adapted(self) -> tuple[str, ...]:
        """What became of each class, if they are other classes than the stored ones."""
        return (*(f"{name}: kept" for name in self.kept), *(f"{name}: new" for name in self.new))

    def __str__(self) -> str:
        numbers = sum(part.from_file for part in self.parts.values())
        lines = [
            f"{self.source} ({self.layout} layout): {self.loaded} tensors loaded, "
            f"{_short(numbers)} parameters."
        ]
        if any(part.adapted.tensors or part.new.tensors for part in self.parts.values()):
            lines += _table(self.parts)
        if self.classes is not None:
            lines.append(_classes_line(self.classes))
        if self.queries is not None:
            stored, wanted = self.queries
            lines.append(
                f"Queries: all {stored} kept, {wanted - stored} are new."
                if wanted > stored
                else f"Queries: the first {wanted} of {stored} kept, the others dropped."
            )
        if self.left_out:
            lines.append(f"Left out: {_listed(self.left_out)}.")
        if self.added:
            lines.append(f"Not in the file, {len(self.added)} tensors: {_listed(self.added, 2)}.")
        return "\n".join(lines)


def count_parts(
    state: Mapping[str, Tensor], from_file: Mapping[str, int] | None = None
) -> dict[str, PartReport]:
    """Count the tensors of a detector by part.

    Args:
        state: All of them.
        from_file: How many numbers of a tensor the file gave, for those that it did not give whole.
    """
    partly = from_file or {}
    counts: dict[str, dict[str, list[int]]] = {}
    given: Counter[str] = Counter()
    for key, tensor in state.items():
        name = key.split(".")[0]
        part = counts.setdefault(name, {})
        found = partly.get(key, tensor.numel())
        given[name] += found
        what = "loaded" if key not in partly else "adapted" if found else "new"
        part.setdefault(what, []).append(tensor.numel())
    return {
        name: PartReport(
            **{
                what: Amount(len(part.get(what, ())), sum(part.get(what, ())))
                for what in ("loaded", "adapted", "new")
            },
            from_file=given[name],
        )
        for name, part in counts.items()
    }


def _table(parts: Mapping[str, PartReport]) -> list[str]:
    rows = [("tensors (parameters)", "loaded", "adapted", "new")]
    rows += [
        (name, str(part.loaded), str(part.adapted), str(part.new)) for name, part in parts.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "   ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _classes_line(classes: ClassMatch) -> str:
    total = len(classes.rows)
    if classes.in_order:
        return (
            f"Classes: the file does not name its {total}; they are taken in this order: "
            f"{_listed(classes.kept)}."
        )
    parts = [f"none of {total} kept by name"]
    if classes.kept:
        parts = [f"{len(classes.kept)} of {total} kept by name: {_listed(classes.kept)}"]
    if classes.new:
        parts.append(f"new, to be trained: {_listed(classes.new)}")
    if classes.dropped:
        parts.append(f"dropped: {_listed(classes.dropped)}")
    if classes.renamed:
        pairs = [f'"{name}" is "{stored}" in the file' for stored, name in classes.renamed]
        parts.append(f"spelled otherwise: {_listed(pairs)}")
    return f"Classes: {'; '.join(parts)}."


def _listed(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _short(count: int) -> str:
    """
    >>> [_short(count) for count in (27, 1280, 41_200_000)]
    ['27', '1.3 k', '41.2 M']
    """
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)
