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
from saccade.doctor.geometry import (
    Sides,
    capacity,
    cropped,
    evaluation_sides,
    num_tokens,
    resized,
    typical_size,
)
from saccade.doctor.tables import Floats, Integers, SplitTable, Tables
from saccade.run_config import RunConfig

MANY_LOST = 0.01
"""The share of a split's objects from which losing them is sure to hurt."""


def crowding_findings(tables: Tables, config: RunConfig) -> list[Finding]:
    """Images with more objects than can be found, or than evaluation counts, and images with too
    few tokens to choose queries from.

    Args:
        tables: The dataset.
        config: The run.
    """
    filled = [table for table in tables.splits.values() if len(table.sizes)]
    findings = _beyond_queries(filled, config.model)
    if config.model.queries.source == "two-stage":
        for table in filled:
            findings += (
                _too_few_in_training(table, config)
                if table is tables.of_training
                else _too_few_in_evaluation(table, config.model)
            )
    for table in tables.held_out:
        findings += _beyond_counted(table, config.max_detections)
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
            Severity.HURTS if lost >= MANY_LOST * total else Severity.LOOK,
            "objects per image",
            f"{images} {one_or_more(number, 'has', 'have')} more objects than the detector's "
            f"{most[crowded[0].name]:,} {who}, up to {fullest:,}, so that "
            f"{counted(lost, 'object')} ({share(lost, total)}) can never be found",
            f"train with {option}",
            tuple(example for each in crowded for example in _fullest(each)),
        )
    ]


def _too_few_in_evaluation(table: SplitTable, config: DetectorConfig) -> list[Finding]:
    tokens = num_tokens(resized(table.sizes, evaluation_sides(config)), config)
    if tokens.min() >= config.queries.num_queries:
        return []
    return [_too_few(table, tokens, config, Severity.HURTS, "", "which stops the run")]


def _too_few_in_training(table: SplitTable, config: RunConfig) -> list[Finding]:
    """Only a batch without any larger image stops the run, for smaller ones are padded."""
    wanted = config.model.queries.num_queries
    tokens, chances = _fewest_tokens(table.sizes, config)
    if tokens.min() >= wanted:
        return []
    batch = min(config.batch_size, len(table.sizes))
    often = chances.mean() ** batch * (len(table.sizes) // batch) >= 1
    severity = Severity.HURTS if often else Severity.LOOK
    stops = "which stops the run as soon as a batch holds no larger one"
    return [_too_few(table, tokens, config.model, severity, " when training makes it small", stops)]


def _fewest_tokens(sizes: Integers, config: RunConfig) -> tuple[Integers, Floats]:
    """[I] and [I]: the fewest tokens that training makes of each image; and the share of the sizes
    that it is resized to whole which have fewer than are wanted."""
    augmentation, wanted = config.augmentation, config.model.queries.num_queries
    sides = [Sides(each, augmentation.max_side) for each in sorted(augmentation.short_sides)]
    whole = np.stack([num_tokens(resized(sizes, each), config.model) for each in sides])
    fewest = whole.min(0)
    if augmentation.crop:
        for each in cropped(sizes, augmentation):
            fewest = np.minimum(fewest, num_tokens(resized(each, sides[0]), config.model))
    return fewest, (whole < wanted).mean(0)


def _too_few(
    table: SplitTable,
    tokens: Integers,
    config: DetectorConfig,
    severity: Severity,
    when: str,
    stops: str,
) -> Finding:
    count = int((tokens < config.queries.num_queries).sum())
    row = int(tokens.argmin())
    height, width = table.sizes[row].tolist()
    order = np.argsort(tokens, kind="stable")[: min(count, MOST_EXAMPLES)]
    return Finding(
        severity,
        "objects per image",
        f"{counted(count, 'image')} of {table.name}, such as one of {width} x {height}, "
        f"{one_or_more(count, 'has', 'have')} fewer tokens ({tokens[row]:,}){when} than the first "
        f"stage has to choose queries from ({config.queries.num_queries:,}), {stops}",
        "enlarge the input (--model.input.short-side, --augmentation.short-sides), or take fewer "
        "--model.queries.num-queries",
        tuple(table.example(int(each)) for each in order),
    )


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
