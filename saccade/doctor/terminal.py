"""The doctor's words in a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from saccade.doctor.examination import Examination, Stage
from saccade.doctor.findings import TITLES, Severity
from saccade.doctor.report import SPLIT_HEADER, split_rows, verdict

STYLES = {
    Severity.HURTS: ("✗", "bold red"),
    Severity.LOOK: ("!", "yellow"),
    Severity.INFORMATION: ("·", "dim"),
}


@contextmanager
def showing(console: Console) -> Iterator[Stage]:
    """A progress bar for each stage of an examination, which vanishes at the end."""
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )

    def stage(what: str, total: int | None) -> Callable[[int], None]:
        for task in progress.task_ids:
            progress.update(task, visible=False)
        task = progress.add_task(what, total=total)
        return lambda count: progress.advance(task, count)

    with progress:
        yield stage


def readable(text: str) -> str:
    """Text in which bytes of file names that are no UTF-8 are spelt out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def print_examination(examination: Examination, console: Console) -> None:
    """The splits, then what was found, the worst first."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, title in enumerate(SPLIT_HEADER):
        table.add_column(title, justify="right" if number else "left")
    for row in split_rows(list(examination.tables.splits.values())):
        table.add_row(*(Text(readable(each)) for each in row))
    console.print(table)
    last: Severity | None = None
    for finding in examination.findings:
        symbol, style = STYLES[finding.severity]
        if finding.severity is not last:
            last = finding.severity
            console.print(Text(f"\n{TITLES[last]}", style="bold"))
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_column(no_wrap=True)
        line.add_column(overflow="fold")
        line.add_row(Text(symbol, style=style), Text(readable(str(finding))))
        console.print(Padding(line, (0, 0, 0, 1)))
    console.print(Text(f"\n{verdict(examination.findings)}", style="bold"))
