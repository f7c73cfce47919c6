"""Sizes of objects and images, beside the detector's strides and its input."""

import math

import numpy as np

from saccade.doctor.findings import Finding, Severity, counted, one_or_more, share
from saccade.doctor.geometry import (
    Sides,
    evaluation_sides,
    padding,
    resized,
    scales,
    strides,
    training_sides,
    typical_size,
)
from saccade.doctor.tables import Floats, SplitTable, Tables
from saccade.run_config import RunConfig

INVISIBLE = 0.25
"""Of the finest stride: objects below hardly change any token."""
MANY_INVISIBLE = 0.05
"""The share of objects from which that is sure to hurt."""
FEW_INVISIBLE = 0.005
MANY_SMALL = 0.2
"""The share of objects below one token from which it is worth a look."""
WANTED = 2.0
"""Tokens that nine of ten objects should span."""
MOST_ENLARGED = 2.5
"""Beyond this, enlarging adds nothing to see."""
MUCH_PADDING = 0.3
SQUEEZED = 0.6


def size_findings(tables: Tables, config: RunConfig) -> list[Finding]:
    """Objects too small for the detector's strides, and which input would suit the images."""
    train = tables.of_training
    if train is None or not len(train.sizes):
        return []
    findings: list[Finding] = []
    for table in tables.splits.values():
        if table.name in (tables.train, tables.val):
            findings += _too_small(table, config)
    return [*findings, *_advice(train, config), *_squeezed(train, config), *_padded(train, config)]


def object_sides(table: SplitTable, sides: Sides | None = None) -> Floats:
    """The sides of the objects that training uses, each the square root of its box's area.

    Args:
        table: Of the objects.
        sides: To what images are resized; as they are without.

    Returns:
        In pixels.
    """
    boxes = table.clipped[table.trained]
    found = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    if sides is not None:
        found = found * scales(table.sizes, sides)[table.rows[table.trained]]
    return found


def suited_sides(table: SplitTable, config: RunConfig) -> Sides:
    """The smallest input at which nine of ten objects span two tokens of the finest level.

    It enlarges images no more than 2.5 times and never shrinks them below a half.
    """
    tenth = float(np.quantile(object_sides(table), 0.1))
    scale = WANTED * strides(config.model)[0] / max(tenth, 1e-9)
    scale = min(max(scale, 0.5), MOST_ENLARGED)
    shorter = np.median(table.sizes.min(1))
    return _with_short(table, 32 * math.ceil(scale * shorter / 32))


def _with_short(table: SplitTable, short: int) -> Sides:
    """A shorter side, and a longest one that nine of ten images fit into."""
    ratio = float(np.quantile(table.sizes.max(1) / table.sizes.min(1), 0.9))
    return Sides(short, 32 * math.ceil(short * ratio / 32))


def _too_small(table: SplitTable, config: RunConfig) -> list[Finding]:
    if not table.trained.any():
        return []
    sides = evaluation_sides(config.model)
    stride = strides(config.model)[0]
    found = object_sides(table, sides)
    invisible, small = found < INVISIBLE * stride, found < stride
    if invisible.mean() >= FEW_INVISIBLE:
        severity = Severity.HURTS if invisible.mean() >= MANY_INVISIBLE else Severity.LOOK
        count, limit, flagged = int(invisible.sum()), INVISIBLE * stride, invisible
        why = "too small to leave a trace in any token, so that they teach noise"
    elif small.mean() >= MANY_SMALL:
        severity, count, limit, flagged = Severity.LOOK, int(small.sum()), stride, small
        why = "smaller than one token of the finest level"
    else:
        return []
    marked = np.zeros(len(table.rows), np.bool_)
    marked[np.flatnonzero(table.trained)[flagged]] = True
    return [
        Finding(
            severity,
            "object sizes",
            f"{counted(count, 'object')} of {table.name} ({share(count, len(found))}) "
            f"{one_or_more(count, 'becomes', 'become')} smaller than {limit:g} pixels at the "
            f"input's {sides.short} x {sides.longest}, {why}",
            _larger_input(table, config),
            table.examples(marked),
        )
    ]


def _larger_input(table: SplitTable, config: RunConfig) -> str:
    now, suited = evaluation_sides(config.model), suited_sides(table, config)
    if suited.short > 1.1 * now.short and suited.short <= 1600:
        return (
            f"enlarge the input with {_options(suited)}, which costs "
            f"{_cost(table, suited, now):.1f} times the time"
        )
    return "cut the images into tiles before training, or leave such objects out"


def _advice(table: SplitTable, config: RunConfig) -> list[Finding]:
    now, stride = evaluation_sides(config.model), strides(config.model)[0]
    height, width = typical_size(table.sizes)
    scale = float(np.median(scales(table.sizes, now)))
    images = f"images of {table.name} have {width} x {height} pixels (the median of each side)"
    resizes = f"{'enlarges' if scale > 1 else 'shrinks'} to {scale:.2g} times that"
    if abs(scale - 1) < 0.05:
        resizes = "leaves as they are"
    what = f"{images}, which the input of {now.short} x {now.longest} {resizes}"
    if not table.trained.any():
        return [Finding(Severity.INFORMATION, "input", what)]
    tenth = float(np.quantile(object_sides(table, now), 0.1))
    what += (
        f", so that nine of ten objects span at least {tenth:.0f} pixels, {tenth / stride:.1f} "
        "tokens of the finest level"
    )
    suited = suited_sides(table, config)
    # More than the files hold is seldom needed, less than they hold may be.
    native = 32 * math.ceil(min(height, width) / 32)
    smaller = suited if suited.short >= native else _with_short(table, native)
    cheaper = _cost(table, now, smaller)
    if tenth < stride:
        remedy = _larger_input(table, config)
    elif tenth < 0.8 * WANTED * stride and suited.short > 1.1 * now.short:
        remedy = f"try {_options(suited)} for the small ones"
    elif cheaper >= 2:
        remedy = (
            f"where time matters more than small objects, {_options(smaller)} takes about "
            f"{1 / cheaper:.0%} of it"
        )
    else:
        remedy = "the input suits them"
    return [Finding(Severity.INFORMATION, "input", what, remedy)]


def _squeezed(table: SplitTable, config: RunConfig) -> list[Finding]:
    sides = evaluation_sides(config.model)
    squeezed = resized(table.sizes, sides).min(1) < SQUEEZED * sides.short
    if squeezed.mean() < 0.2:
        return []
    ratio = float(np.median((table.sizes.max(1) / table.sizes.min(1))[squeezed]))
    wanted = 32 * math.ceil(sides.short * ratio / 32)
    return [
        Finding(
            Severity.LOOK,
            "input",
            f"{share(int(squeezed.sum()), len(squeezed))} of the images of {table.name} are so "
            f"long ({ratio:.1f} to 1) that the longest side of {sides.longest} shrinks their "
            f"shorter one below {SQUEEZED:.0%} of {sides.short}",
            f"allow it with --model.input.max-side {wanted} --augmentation.max-side {wanted}, or "
            "cut the images into tiles",
        )
    ]


def _padded(table: SplitTable, config: RunConfig) -> list[Finding]:
    # Buckets put like shapes together, so that batches at random say nothing.
    if config.batch_size == 1 or config.aspect_bucketing:
        return []
    waste = padding(resized(table.sizes, training_sides(config)[0]), config.batch_size)
    if waste < MUCH_PADDING:
        return []
    together = config.batch_size * config.accumulate
    return [
        Finding(
            Severity.LOOK,
            "input",
            f"images of {table.name} are of so many shapes that {waste:.0%} of a batch of "
            f"{config.batch_size} is padding, which costs time and memory",
            f"train with --batch-size 1 --accumulate {together}, which is the same step",
        )
    ]


def _options(sides: Sides) -> str:
    return (
        f"--model.input.short-side {sides.short} --model.input.max-side {sides.longest} "
        f"--augmentation.short-sides {sides.short} --augmentation.max-side {sides.longest}"
    )


def _cost(table: SplitTable, one: Sides, other: Sides) -> float:
    """How many times the pixels of `other` those of `one` are."""
    pixels = [resized(table.sizes, sides).prod(1).sum() for sides in (one, other)]
    return float(pixels[0] / pixels[1])
