"""COCO's numbers for people (a table) and for programs (JSON)."""

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saccade.evaluation.coco_ap import CocoResult


def print_table(result: CocoResult, console: Console) -> None:
    """Print the twelve numbers and each class's AP, in percent; "-" where nothing is to find."""
    names = list(result.numbers)
    for row in (names[:6], names[6:]):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for name in row:
            table.add_column(name, justify="right", min_width=5)
        table.add_row(*(_percent(result.numbers[name]) for name in row))
        console.print(table)
    console.print()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("class", overflow="fold")
    table.add_column("AP", justify="right", min_width=5)
    table.add_column("AP50", justify="right", min_width=5)
    for name, ap in result.per_class.items():
        table.add_row(escape(name), _percent(ap), _percent(result.per_class_ap50[name]))
    console.print(table)
    if result.undetected:
        console.print(f"\nUnknown to the detector: {escape(', '.join(result.undetected))}.")


def write_json(result: CocoResult, file: Path) -> None:
    """Write all numbers, in [0, 1], as one JSON object."""
    file.write_text(json.dumps(asdict(result), indent=2, ensure_ascii=False) + "\n", "utf-8")


def _percent(value: float) -> str:
    return "-" if value < 0 else f"{100 * value:.1f}"
