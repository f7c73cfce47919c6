"""The table of `saccade bench model`, for terminals of 80 columns and wider."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from saccade.analysis.counts import Counts

from .op_report import as_bytes, as_range, as_ratio, as_time, new_table, print_heading

if TYPE_CHECKING:
    from .model import RowResult


def print_model(
    record: Mapping[str, Any], counts: Counts, results: Sequence["RowResult"], console: Console
) -> None:
    """Print what the detector costs, then how long each runtime takes."""
    print_heading(record["machine"], record["versions"], console)
    height, width = record["size"]
    images = "1 image" if record["batch_size"] == 1 else f"{record['batch_size']} images"
    console.print(
        f"\n{counts.parameters / 1e6:.1f} M parameters, {counts.flops / 1e9:.0f} G multiply-adds "
        f"an image; {images} of {height} x {width} pixels",
        highlight=False,
    )
    table = new_table("median", "times as fast", "quartiles", "memory", "differs", "AP")
    for result in results:
        table.add_row(
            result.row,
            as_time(result.seconds.median),
            f"[bold]{as_ratio(result.speed_up.median)}[/bold]",
            as_range(result.speed_up),
            "" if result.peak_bytes is None else as_bytes(result.peak_bytes),
            f"{result.difference:.0e}",
            "" if result.ap is None else f"{result.ap:.1f}",
        )
    console.print(table)
    console.print(
        "Times as fast as the first row, by turns. The most memory of each process.\n"
        "The largest difference of logits, relative to the largest logit of the first row.",
        style="dim",
        highlight=False,
    )
