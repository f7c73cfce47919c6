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
    table = new_table(
        "median", "quartiles", "speed-up", "quartiles", "peak memory", "logits differ"
    )
    for result in results:
        seconds = result.seconds
        table.add_row(
            result.row,
            as_time(seconds.median),
            f"{as_time(seconds.low)} - {as_time(seconds.high)}",
            f"[bold]{as_ratio(result.speed_up.median)}[/bold]",
            as_range(result.speed_up),
            "" if result.peak_bytes is None else as_bytes(result.peak_bytes),
            f"{result.difference:.0e}",
        )
    console.print(table)
    console.print(
        "speed-up: times as fast as the first row, by turns; peak memory: of the whole process "
        "while it runs; differences are relative to the largest logit",
        style="dim",
        highlight=False,
    )
