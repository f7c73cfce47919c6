"""How long an epoch takes on this machine, and whether a step fits into its memory."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from saccade.config import DetectorConfig
from saccade.config_json import to_dict
from saccade.doctor.bounded import MOST_SECONDS, free_memory, run_module
from saccade.doctor.findings import Finding, Severity, counted
from saccade.doctor.geometry import num_tokens, resized, training_sides, typical_size
from saccade.doctor.recipe_lint import lint_gradients, lint_minutes
from saccade.doctor.tables import SplitTable
from saccade.run_config import RunConfig

SECONDS = 25.0
"""For the steps themselves."""
TIGHT = 0.85
FAR = 4.0
"""Times the pixels that were measured, beyond which memory is not foretold."""


@dataclass(frozen=True)
class Measured:
    """What was measured of one size of batch."""

    num_images: int
    size: tuple[int, int]
    seconds: float
    peak: int

    @property
    def pixels(self) -> int:
        """Of all images."""
        return self.num_images * self.size[0] * self.size[1]


@dataclass(frozen=True)
class Cost:
    """What training steps took, and what follows for the run."""

    device: str
    steps: tuple[Measured, ...]
    usual: tuple[int, int]
    """(height, width) in pixels of a usual training image."""
    largest: tuple[int, int]
    """(height, width) in pixels of a batch of the largest ones."""
    batch_size: int
    free: int
    """Bytes of memory, before the steps."""
    base: int = 0
    """Bytes that the process took before its first step."""
    unreached: tuple[str, ...] = ()
    too_large: bool = False
    """Whether a step did not fit."""
    failed: str = ""
    """Why nothing could be measured."""

    @property
    def nearest(self) -> Measured | None:
        """The measured batch that is most like a usual one."""
        pixels = self.batch_size * self.usual[0] * self.usual[1]
        return min(self.steps, key=lambda step: abs(step.pixels - pixels), default=None)

    @property
    def seconds(self) -> float | None:
        """Of a usual batch: measured, or from the nearest that was, by its pixels."""
        nearest = self.nearest
        if nearest is None:
            return None
        return nearest.seconds * self.batch_size * self.usual[0] * self.usual[1] / nearest.pixels

    @property
    def peak(self) -> int | None:
        """Bytes at the worst moment of a batch of the largest images: measured, or in a straight
        line from what was; None where that is too far, or not known."""
        if not self.steps or not self.steps[-1].peak:
            return None
        pixels = self.batch_size * self.largest[0] * self.largest[1]
        last = self.steps[-1]
        if pixels > FAR * last.pixels:
            return None
        before = (
            (self.steps[-2].pixels, self.steps[-2].peak) if len(self.steps) > 1 else (0, self.base)
        )
        slope = max(0.0, (last.peak - before[1]) / max(1, last.pixels - before[0]))
        return round(last.peak + slope * max(0, pixels - last.pixels))


def measure_cost(
    table: SplitTable, config: RunConfig, tick: Callable[[], None] = lambda: None
) -> Cost:
    """Take training steps in another process, for half a minute or so.

    Noise takes the place of images, and boxes drawn at random that of objects, as many as there are
    on a crowded image. The process is ended when it takes more memory than is free, or too long.

    Args:
        table: The split that is trained on.
        config: The run.
        tick: Called now and then while it goes on.
    """
    usual_sides, largest_sides = training_sides(config)
    usual = typical_size(resized(table.sizes, usual_sides))
    every = resized(table.sizes, largest_sides)
    height, width = np.quantile(every, 0.98, axis=0).astype(int).tolist()
    objects = max(1, int(np.quantile(table.per_image, 0.95)))
    batch = config.batch_size
    steps: list[dict[str, Any]] = [
        {"num_images": 1, "size": _small(usual, config.model), "repeats": 1},
        {"num_images": batch, "size": usual, "repeats": 4},
    ]
    if (height, width) != usual:
        steps.append({"num_images": batch, "size": (height, width), "repeats": 1})
    task = {
        "config": to_dict(config),
        "seconds": SECONDS,
        "steps": [{**step, "num_objects": objects} for step in steps],
    }
    free = free_memory()
    lines, why = run_module("saccade.doctor.steps", task, free, tick)
    found = {key: value for line in lines for key, value in line.items() if key != "step"}
    measured = [line["step"] for line in lines if "step" in line]
    if "cuda" in str(found.get("device", "")):
        free = _free_on_gpu()
    return Cost(
        device=str(found.get("name", "")),
        steps=tuple(
            Measured(each["num_images"], tuple(each["size"]), each["seconds"], each["peak"])
            for each in measured
        ),
        usual=usual,
        largest=(height, width),
        batch_size=batch,
        free=free,
        base=int(found.get("base", 0)),
        unreached=tuple(found.get("unreached", ())),
        too_large=why == "memory" or bool(found.get("too_large")),
        failed=why if why not in ("", "memory", "time") else "",
    )


def _small(size: tuple[int, int], config: DetectorConfig) -> tuple[int, int]:
    """Half of each side, unless the detector has too few tokens then."""
    half = (size[0] // 2, size[1] // 2)
    tokens = int(num_tokens(np.array([half], np.int64), config)[0])
    return half if tokens >= config.queries.num_queries else size


def cost_findings(cost: Cost, config: RunConfig, num_images: int) -> list[Finding]:
    """What the steps say about the run."""
    if cost.failed:
        return [
            Finding(
                Severity.LOOK,
                "cost",
                f"training steps could not be measured ({cost.failed.rstrip('.')})",
                "try saccade train --check",
            )
        ]
    findings = [*lint_gradients(list(cost.unreached)), *_memory(cost)]
    seconds = cost.seconds
    if seconds is None:
        if not cost.too_large:
            findings.append(
                Finding(
                    Severity.LOOK,
                    "cost",
                    f"not one training step was complete within {MOST_SECONDS:.0f} seconds on this "
                    f"machine ({_conditions(cost)}), so that a run would take very long",
                    "repeat when kernels are compiled and nothing else runs, then take a smaller "
                    "preset, such as deformable-detr-nano, or another machine",
                )
            )
        return findings
    processes = config.launch.devices * config.launch.num_nodes
    batches = max(1, num_images // (config.batch_size * processes))
    epoch = seconds * batches
    run = (
        f"{config.minutes:g} minutes are {config.minutes * 60 / epoch:.1f} epochs"
        if (config.minutes)
        else f"{counted(config.epochs, 'epoch')} {duration(config.epochs * epoch)}"
    )
    height, width = cost.usual
    findings.append(
        Finding(
            Severity.INFORMATION,
            "cost",
            f"a batch of {counted(cost.batch_size, 'image')} of {width} x {height} pixels takes "
            f"{_foretold(cost)}{_seconds(seconds)} seconds on this machine ({_conditions(cost)}), "
            f"an epoch of {counted(batches, 'batch', 'batches')} {duration(epoch)}, {run}; "
            "reading images and evaluating come on top",
        )
    )
    return [*findings, *lint_minutes(config, epoch)]


def _foretold(cost: Cost) -> str:
    nearest, pixels = cost.nearest, cost.batch_size * cost.usual[0] * cost.usual[1]
    if nearest is None or nearest.pixels == pixels:
        return ""
    height, width = nearest.size
    of = f"{counted(nearest.num_images, 'image')} of {width} x {height}"
    return f"at most, going by a batch of {of}, about "


def _conditions(cost: Cost) -> str:
    busy = hasattr(os, "getloadavg") and os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1)
    return f"{cost.device}, which other work keeps busy now" if busy else cost.device


def _memory(cost: Cost) -> list[Finding]:
    peak, size = cost.peak, f"{cost.largest[1]} x {cost.largest[0]}"
    images = f"a batch of {counted(cost.batch_size, 'image')} of {size} pixels"
    remedy = (
        "take a smaller --batch-size with a larger --accumulate, smaller "
        "--augmentation.short-sides and --augmentation.max-side, or a smaller preset"
    )
    if cost.too_large or (peak is not None and peak > cost.free):
        needs = "" if cost.too_large or peak is None else f" needs about {gigabytes(peak)} and"
        return [
            Finding(
                Severity.HURTS,
                "memory",
                f"{images}{needs} does not fit into the {gigabytes(cost.free)} of memory that are "
                "free here, so that the run will be killed",
                remedy,
            )
        ]
    if peak is None:
        return []
    tight = peak > TIGHT * cost.free
    return [
        Finding(
            Severity.LOOK if tight else Severity.INFORMATION,
            "memory",
            f"training takes about {gigabytes(peak)} of the {gigabytes(cost.free)} of memory that "
            f"are free, with {images}, the largest"
            + (", which leaves little for anything else" if tight else ""),
            remedy if tight else "",
        )
    ]


def duration(seconds: float) -> str:
    """In the unit that suits.

    >>> duration(3.21), duration(300), duration(40_000), duration(400_000)
    ('3.2 seconds', '5 minutes', '11 hours', '4.6 days')
    """
    for unit, length in (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            number = seconds / length
            return (
                f"{number:.1f} {unit}"
                if number < 9.5 and unit == "days"
                else f"{number:.0f} {unit}"
            )
    return f"{seconds:.1f} seconds"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:,.0f}"


def gigabytes(count: int) -> str:
    """Bytes, for people.

    >>> gigabytes(2_500_000_000)
    '2.5 GB'
    """
    return f"{count / 1e9:.1f} GB"


def _free_on_gpu() -> int:
    import torch

    return int(torch.cuda.mem_get_info()[0])
