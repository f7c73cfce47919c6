"""Objects per image, beside what the detector can find and evaluation counts."""

import numpy as np

from saccade.config import DetectorConfig
from saccade.doctor.findings import (
    MOST_EXAMPLES,
    Example,
    Finding,
    Severity,
    counted,
    one_or_more,
    share,
)
from saccade.doctor.geometry import capacity, evaluation_sides, num_tokens, resized, typical_size
from saccade.doctor.tables import SplitTable, Tables

COUNTED = 100
"""Detections that COCO's evaluation counts per image."""


def crowding_findings(
    tables: Tables, config: DetectorConfig, most_counted: int = COUNTED
) -> list[Finding]:
    """Images with more objects than can be found, or than evaluation counts.

    Args:
        tables: The dataset.
        config: The detector.
        most_counted: Detections that evaluations count per image and class.
    """
    filled = [table for table in tables.splits.values() if len(table.sizes)]
    findings = _beyond_queries(filled, config)
    for table in filled:
        findings += _too_few_tokens(table, config)
    for table in tables.held_out:
        findings += _beyond_counted(table, most_counted)
    return findings


def most_found(table: SplitTable, config: DetectorConfig) -> int:
    """How many objects of an image of usual size can be found."""
    return capacity(config, typical_size(resized(table.sizes, evaluation_sides(config))))


def _beyond_queries(tables: list[SplitTable], config: DetectorConfig) -> list[Finding]:
    most = {table.name: most_found(table, config) for table in tables}
    crowded = [table for table in tables if table.per_image.max() > most[table.name]]
    if not crowded:
        return []
    fullest = max(int(table.per_image.max()) for table in crowded)
    lost = sum(int((each.per_image - most[each.name]).clip(min=0).sum()) for each in crowded)
    enough = -(-int(1.1 * fullest) // 50) * 50
    who, option = "queries", f"--model.queries.num-queries {enough}"
    if config.selection.kind != "none":
        who, option = "selected tokens", f"--model.selection.num-tokens {2 * enough}"
    elif config.queries.source == "tokens":
        who, option = "tokens", "a larger --model.input.short-side, or another preset"
    number = sum(int((each.per_image > most[each.name]).sum()) for each in crowded)
    images = " and ".join(
        f"{int((each.per_image > most[each.name]).sum()):,} of the "
        f"{counted(len(each.sizes), 'image')} of {each.name}"
        for each in crowded
    )
    total = sum(int(each.per_image.sum()) for each in crowded)
    return [
        Finding(
            Severity.HURTS,
            "objects per image",
            f"{images} {one_or_more(number, 'has', 'have')} more objects than the detector's "
            f"{most[crowded[0].name]:,} {who}, up to {fullest:,}, so that "
            f"{counted(lost, 'object')} ({share(lost, total)}) can never be found",
            f"train with {option}",
            tuple(example for each in crowded for example in _fullest(each)),
        )
    ]


def _too_few_tokens(table: SplitTable, config: DetectorConfig) -> list[Finding]:
    if config.queries.source != "two-stage":
        return []
    tokens = num_tokens(resized(table.sizes, evaluation_sides(config)), config)
    short = tokens < config.queries.num_queries
    if not short.any():
        return []
    row = int(tokens.argmin())
    height, width = table.sizes[row].tolist()
    return [
        Finding(
            Severity.HURTS,
            "objects per image",
            f"{counted(int(short.sum()), 'image')} of {table.name}, such as one of {width} x "
            f"{height}, {one_or_more(int(short.sum()), 'has', 'have')} fewer tokens "
            f"({tokens[row]:,}) than the first stage has to choose "
            f"queries from ({config.queries.num_queries:,}), which stops the run",
            "enlarge the input (--model.input.short-side, --augmentation.short-sides), or take "
            "fewer --model.queries.num-queries",
            tuple(table.example(int(each)) for each in np.argsort(tokens)[:MOST_EXAMPLES]),
        )
    ]


def _beyond_counted(table: SplitTable, most_counted: int) -> list[Finding]:
    beyond = table.per_image > most_counted
    if not beyond.any():
        return []
    # COCO counts so many per class; with one class, which dense data have, it is the same.
    per_class = np.unique(
        np.stack([table.rows[table.trained], table.labels[table.trained]]),
        axis=1,
        return_counts=True,
    )[1]
    lost = int((per_class - most_counted).clip(min=0).sum())
    if not lost:
        return []
    enough = -(-int(1.1 * per_class.max()) // 100) * 100
    return [
        Finding(
            Severity.LOOK,
            "objects per image",
            f"AP counts {most_counted:,} detections per image and class, and "
            f"{counted(int(beyond.sum()), 'image')} of {table.name} "
            f"{one_or_more(int(beyond.sum()), 'has', 'have')} more objects, so that "
            f"{share(lost, int(table.per_image.sum()))} of them cannot be counted as found",
            f"count more with --max-detections {enough}, in saccade train and saccade eval",
        )
    ]


def _fullest(table: SplitTable) -> tuple[Example, ...]:
    order = np.argsort(-table.per_image, kind="stable")[:2]
    return tuple(table.example(int(row), table.trained) for row in order)
