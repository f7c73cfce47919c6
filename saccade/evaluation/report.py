"""COCO's numbers for people (a table) and for programs (JSON)."""

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saccade.evaluation.coco_ap import CocoResult

COCO_DETECTIONS = 100


def print_table(result: CocoResult, console: Console) -> None:
    """Print the twelve numbers and each class's AP, in percent; "-" where nothing is to find.

    AR100 is called by the detections that it counted, and another limit than COCO's is said.
    """
    most = result.max_detections
    numbers = [
        (f"AR{most}" if name == "AR100" else name, value) for name, value in result.numbers.items()
    ]
    for row in (numbers[:6], numbers[6:]):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for name, _ in row:
            table.add_column(name, justify="right", min_width=5)
        table.add_row(*(percent(value) for _, value in row))
        console.print(table)
    if most != COCO_DETECTIONS:
        console.print(
            f"Up to {most} detections of an image and class count, in AP and AR (COCO: "
            f"{COCO_DETECTIONS}).",
            highlight=False,
        )
    console.print()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("class", overflow="fold")
    table.add_column("AP", justify="right", min_width=5)
    table.add_column("AP50", justify="right", min_width=5)
    for name, ap in result.per_class.items():
        table.add_row(escape(name), percent(ap), percent(result.per_class_ap50[name]))
    console.print(table)
    if result.undetected:
        console.print(f"\nUnknown to the detector: {escape(', '.join(result.undetected))}.")


def write_json(result: CocoResult, file: Path) -> None:
    """Write all numbers, in [0, 1], as one JSON object."""
    file.write_text(json.dumps(asdict(result), indent=2, ensure_ascii=False) + "\n", "utf-8")


def percent(value: float) -> str:
    """In percent; "-" for COCO's -1 and for what is not a number.

    >>> percent(0.125), percent(-1.0)
    ('12.5', '-')
    """
    return f"{100 * value:.1f}" if value >= 0 else "-"
