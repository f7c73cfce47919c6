"""Every split of a dataset, read once; what cannot be read becomes a finding."""

from pathlib import Path

from saccade.data import Annotations, Split, find_split
from saccade.data.formats import FORMATS
from saccade.doctor.findings import Finding, Severity
from saccade.doctor.label_numbers import explain_numbers
from saccade.doctor.tables import Tables, tabulate


def read_tables(
    folder: Path, train: str = "train", val: str = "val"
) -> tuple[Tables, list[Finding]]:
    """Read all splits of a dataset.

    A split that holds the images of others again, as Pascal VOC's "trainval" does, is left out:
    only the splits that are trained on and evaluated are taken as they are.

    Args:
        folder: Of the dataset; see `find_split`.
        train: The split that is trained on; it must exist.
        val: The split that evaluations use.

    Returns:
        The splits, and a finding for each that is missing or unreadable.

    Raises:
        ValueError: If there is no dataset or no such split to train on.
    """
    found = {train: find_split(folder, train)}
    findings: list[Finding] = []
    try:
        found[val] = find_split(folder, val)
    except ValueError as error:
        findings.append(_missing(str(error)))
    for name, split in _others(folder):
        if split not in found.values():
            found[name] = split
    read: dict[str, tuple[Path, Annotations]] = {}
    for name, split in found.items():
        try:
            read[name] = split.images, split.read()
        except (ValueError, OSError) as error:
            wanted = name in (train, val)
            findings.append(_unreadable(name, split, error, wanted))
    kept = {
        name: each
        for name, each in read.items()
        if name in (train, val) or not _repeats(name, read, (train, val))
    }
    return tabulate(kept, train, val), findings


def _others(folder: Path) -> list[tuple[str, Split]]:
    names = sorted({name for form in FORMATS for name in form.splits(folder)})
    found = []
    for name in names:
        try:
            found.append((name, find_split(folder, name)))
        except (ValueError, OSError):
            # Nobody trains on it; `find_split` says why when somebody asks.
            continue
    return found


def _repeats(name: str, read: dict[str, tuple[Path, Annotations]], main: tuple[str, str]) -> bool:
    """Whether most images of a split are those of the main ones, by their paths."""

    def files(which: str) -> set[Path]:
        folder, annotations = read[which]
        return {folder / entry.file_name for entry in annotations.images}

    own = files(name)
    others = set[Path]().union(*(files(each) for each in main if each in read))
    return bool(own) and len(own & others) > 0.5 * len(own)


def _missing(error: str) -> Finding:
    return Finding(
        Severity.HURTS,
        "splits",
        f"there is nothing to evaluate on ({error.rstrip('.')})",
        "name the split with --val-split, or set some images apart",
    )


def _unreadable(name: str, split: Split, error: ValueError | OSError, wanted: bool) -> Finding:
    severity = Severity.HURTS if wanted else Severity.LOOK
    explained = explain_numbers(split)
    said = str(error).rstrip(".")
    if explained is not None:
        return Finding(severity, "class numbers", f'split "{name}": {said}', explained)
    return Finding(severity, "annotations", f'split "{name}" cannot be read', said)
