"""What trained detectors do on a few images, and what they cost: tables and JSON."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saccade.analysis.counts import Counts, count
from saccade.analysis.images import FewImages
from saccade.analysis.matching import (
    Assignment,
    MatchingChange,
    assignment,
    keeps_queries,
    matching_change,
)
from saccade.analysis.sparsity import LayerSparsity, attention_sparsity
from saccade.config import DetectorConfig
from saccade.evaluation.speed import Speed, measure_speed
from saccade.inference.predictor import Detector
from saccade.recipes import for_detector
from saccade.structures import Batch, Targets
from saccade.training import HungarianMatcher


@dataclass(frozen=True)
class Analysis:
    """What one detector does and costs."""

    config: DetectorConfig
    class_names: tuple[str, ...]
    num_images: int
    layers: tuple[LayerSparsity, ...]
    answers: Assignment | None
    """Which object each query is matched to; None where the queries are proposals."""
    size: tuple[int, int]
    """(height, width) in pixels of the image that `counts` and `speed` are about."""
    counts: Counts
    speed: Speed
    device: str


def analyse(detector: Detector, images: FewImages, seconds: float = 5.0) -> Analysis:
    """Look at a trained detector.

    Args:
        detector: On its device. Its matching costs are those of its kind's recipe.
        images: Of the detector's input and classes; the first also serves to measure and count.
        seconds: How long to measure the speed of the model alone, one image at a time.

    Raises:
        ValueError: If an image cannot be read, or `seconds` is not positive.
    """
    device = detector.device
    answers = None
    if keeps_queries(detector.model):
        costs = for_detector(detector.config).loss
        matcher = HungarianMatcher(costs, detector.config.classification)
        answers = assignment(detector.model, _on(device, images), matcher)
    layers = attention_sparsity(detector.model, (batch for batch, _ in _on(device, images)))
    first, _ = next(_on(device, images))
    return Analysis(
        config=detector.config,
        class_names=detector.class_names,
        num_images=len(images),
        layers=layers,
        answers=answers,
        size=first.sizes[0],
        counts=count(detector.config, first.sizes[0]),
        speed=measure_speed(detector.model, first, seconds),
        device=device.type,
    )


def _on(device: torch.device, images: FewImages) -> Iterator[tuple[Batch, list[Targets]]]:
    """The images one after the other, never all at once."""
    for batch, targets in images:
        yield batch.to(device), [target.to(device) for target in targets]


def change_between(before: Analysis, after: Analysis) -> MatchingChange | None:
    """How much the matching differs from one checkpoint of a run to another.

    None where queries or objects are not the same ones: where the detectors have different
    configurations, or looked at different images.
    """
    one, other = before.answers, after.answers
    if one is None or other is None or before.config != after.config:
        return None
    if {id: len(each) for id, each in one.items()} != {id: len(each) for id, each in other.items()}:
        return None
    return matching_change(one, other)


def print_analyses(analyses: Mapping[str, Analysis], console: Console) -> None:
    """Print a table for each detector, and how much the matching changes from one to the next."""
    for name, analysis in analyses.items():
        counts, (height, width) = analysis.counts, analysis.size
        console.print(f"[bold]{escape(name)}[/bold]")
        console.print(
            f"{counts.parameters / 1e6:.1f} M parameters, {counts.trained / 1e6:.1f} M trained. "
            f"One image of {height} x {width} pixels: {counts.flops / 1e9:.1f} G multiply-adds, "
            f"{analysis.speed.images_per_second:.1f} images/s on {analysis.device}. "
            f"Attention on {analysis.num_images} images:"
        )
        console.print(_table(analysis.layers))
        console.print()
    for (name, before), (next_name, after) in pairwise(analyses.items()):
        change = change_between(before, after)
        if change is not None:
            console.print(
                f"From {escape(name)} to {escape(next_name)} {100 * change.share:.1f} % of the "
                f"queries change their object, {100 * change.share_of_matched:.1f} % of those "
                "that answer for one."
            )


def write_analyses(analyses: Mapping[str, Analysis], file: Path) -> None:
    """Write the same as one JSON object, a member for each detector."""
    content: dict[str, Any] = {}
    previous: Analysis | None = None
    for name, analysis in analyses.items():
        content[name] = asdict(replace(analysis, answers=None))
        del content[name]["answers"], content[name]["config"]
        change = None if previous is None else change_between(previous, analysis)
        content[name]["matching_change"] = None if change is None else asdict(change)
        previous = analysis
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _table(layers: Sequence[LayerSparsity]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("layer", no_wrap=True)
    for heading in ("negative entropy", "keys", "sparsity", "spread", "inside"):
        table.add_column(heading, justify="right")
    for layer in layers:
        table.add_row(
            layer.name,
            f"{layer.negative_entropy:.3f}",
            f"{layer.num_keys:.0f}",
            f"{layer.sparsity:.5f}",
            "-" if layer.spread is None else f"{layer.spread:.2f}",
            "-" if layer.inside is None else f"{100 * layer.inside:.0f} %",
        )
    return table
