"""Images that are broken, dark, copies of others, or in two splits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from saccade.data.broken_images import MOST_SAID
from saccade.doctor.findings import (
    MOST_EXAMPLES,
    Example,
    Finding,
    Severity,
    counted,
    one_or_more,
    share,
)
from saccade.doctor.hashing import first_alike
from saccade.doctor.image_scan import File, ImageScan, scan_images
from saccade.doctor.tables import Flags, Integers, SplitTable, Tables

DARK = 65535 // 8
"""The largest value of images of 16 bits below which they are meant for fewer bits."""
MANY_DARK = 0.03
"""The share of all images that are so from which it is sure to hurt."""
MANY_SHARED = 0.03
"""The share of a split whose images training sees too from which its AP says too much."""


def files_of(tables: Tables) -> tuple[list[File], dict[str, Integers]]:
    """Every image file once, with its size; and the index of each image of a split among them."""
    index: dict[Path, int] = {}
    files: list[File] = []
    places: dict[str, Integers] = {}
    for name, table in tables.splits.items():
        rows = []
        for file, size in zip(table.files(), table.sizes.tolist(), strict=True):
            if file not in index:
                index[file] = len(files)
                files.append((file, (size[0], size[1])))
            rows.append(index[file])
        places[name] = np.array(rows, np.int64)
    return files, places


def image_findings(
    tables: Tables,
    advance: Callable[[int], None] | None = None,
    num_processes: int | None = None,
    *,
    skipped: bool = False,
) -> list[Finding]:
    """Look at every image of every split; see `scan_images`.

    Args:
        tables: The dataset.
        advance: Told how many more have been looked at.
        num_processes: How many look.
        skipped: Whether the run leaves broken images out, in place of stopping at the first.
    """
    files, places = files_of(tables)
    if not files:
        return []
    scan = scan_images(files, advance, num_processes)
    findings = [*_broken(tables, scan, places, skipped), *_dark(files, scan)]
    copies = _copies(scan)
    for table in tables.held_out:
        if tables.of_training is not None:
            findings += _shared(tables.of_training, table, files, places, (scan, copies))
    for name in tables.splits:
        findings += _copied(name, files, places[name], copies)
    return findings


def _broken(
    tables: Tables, scan: ImageScan, places: dict[str, Integers], skipped: bool
) -> list[Finding]:
    findings = []
    what = "the run leaves them out" if skipped else "a run stops at the first"
    remedy = (
        "repair or remove" if skipped else "repair or remove, or train with --on-broken-image skip"
    )
    for name, table in tables.splits.items():
        sentences = [scan.errors[index] for index in places[name].tolist() if index in scan.errors]
        sentences += table.annotations.broken
        first = "; ".join(each.rstrip(".") for each in sentences[:MOST_SAID])
        more = f"; and {len(sentences) - MOST_SAID:,} more" if len(sentences) > MOST_SAID else ""
        if sentences:
            stops = name in (tables.train, tables.val) and not skipped
            findings.append(
                Finding(
                    Severity.HURTS if stops else Severity.LOOK,
                    "broken images",
                    f"{counted(len(sentences), 'image')} of {name} cannot be used, and {what} "
                    f"({first}{more})",
                    remedy,
                )
            )
    return findings


def _dark(files: list[File], scan: ImageScan) -> list[Finding]:
    deep = np.flatnonzero(scan.largest > 0)
    dark = deep[scan.largest[deep] <= DARK]
    # Beside many that use all bits, a few are of dark places.
    if not len(dark) or 2 * len(dark) < len(deep):
        return []
    largest = int(scan.largest[dark].max())
    bits = largest.bit_length()
    many = len(dark) >= MANY_DARK * len(files)
    return [
        Finding(
            Severity.HURTS if many else Severity.LOOK,
            "dark images",
            f"{counted(len(dark), 'image')} of 16 bits "
            f"{one_or_more(len(dark), 'holds', 'hold')} no value above {largest:,} of 65,535, "
            f"as if they were of {bits} bits: they are read as almost black, at most "
            f"{largest / 257:.0f} of 255",
            f"multiply their values by {65536 >> bits}, or store them in 8 bits",
            tuple(Example(*files[index]) for index in dark[:MOST_EXAMPLES].tolist()),
        )
    ]


def _copies(scan: ImageScan) -> Integers:
    """[P, 2]: each file that is a copy of an earlier one, after that one."""
    first: dict[bytes, int] = {}
    pairs = [
        (first[digest], index)
        for index, digest in enumerate(scan.digests)
        if digest and first.setdefault(digest, index) != index
    ]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _shared(
    train: SplitTable,
    table: SplitTable,
    files: list[File],
    places: dict[str, Integers],
    looked: tuple[ImageScan, Integers],
) -> list[Finding]:
    """Images of a split that training sees too: the same file, a copy, or one that looks alike."""
    seen, own = _members(places[train.name], files), _members(places[table.name], files)
    scan, copies = looked[0], _across(looked[1], seen, own)
    itself = np.flatnonzero(seen & own)
    same = np.unique(np.concatenate([itself, copies[:, 1]]))
    others = np.setdiff1d(np.flatnonzero(own), same)
    alike = first_alike(scan.hashes, scan.thumbnails, np.flatnonzero(seen), others)
    similar = alike[:, 1]
    count = len(same) + len(similar)
    if not count:
        return []
    shown = np.concatenate([np.stack([itself, itself], 1), copies, alike])
    _, which = np.unique(shown[:, 1], return_index=True)
    shown = shown[np.sort(which)]
    if len(similar):
        # What only looks alike is worth seeing most.
        shown = shown[np.argsort(~np.isin(shown[:, 1], similar), kind="stable")]
    said = f"{len(same):,} the same and {len(similar):,} almost the same"
    if not len(similar) or not len(same):
        said = "the same" if len(same) else "almost the same"
    severe = count >= MANY_SHARED * len(table.sizes)
    return [
        Finding(
            Severity.HURTS if severe else Severity.LOOK,
            "images in two splits",
            f"{counted(count, 'image')} of {table.name} ({share(count, len(table.sizes))}) "
            f"{one_or_more(count, 'is', 'are')} in {train.name} too, {said}: what is learnt by "
            "heart is counted as found",
            "remove them from one of the two, and keep pictures of one scene in one split",
            pairs=tuple(
                (Example(*files[one]), Example(*files[other]))
                for one, other in shown[:MOST_EXAMPLES].tolist()
            ),
        )
    ]


def _copied(name: str, files: list[File], place: Integers, copies: Integers) -> list[Finding]:
    own = _members(place, files)
    within = copies[own[copies[:, 0]] & own[copies[:, 1]]]
    if not len(within):
        return []
    return [
        Finding(
            Severity.LOOK,
            "copies",
            f"{counted(len(within), 'image')} of {name} ({share(len(within), len(place))}) "
            f"{one_or_more(len(within), 'is a copy', 'are copies')} of others of it, byte by byte: "
            "they weigh twice, and their labels may disagree",
            "remove them, and see that the labels of the copies agree",
            pairs=tuple(
                (Example(*files[one]), Example(*files[other]))
                for one, other in within[:MOST_EXAMPLES].tolist()
            ),
        )
    ]


def _members(place: Integers, files: list[File]) -> Flags:
    found = np.zeros(len(files), np.bool_)
    found[place] = True
    return found


def _across(pairs: Integers, seen: Flags, own: Flags) -> Integers:
    """The pairs of an image that is trained on and one of another split, in this order."""
    found = np.concatenate([pairs, pairs[:, ::-1]])
    return found[seen[found[:, 0]] & own[found[:, 1]] & ~seen[found[:, 1]]]
