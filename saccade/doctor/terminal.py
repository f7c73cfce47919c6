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
    Severity.HURTS: ("✗", "x", "bold red"),
    Severity.LOOK: ("!", "!", "yellow"),
    Severity.INFORMATION: ("·", "-", "dim"),
}
"""A symbol, the same in ASCII, and a style."""


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


def readable(text: str, console: Console) -> str:
    """Text in which what the console cannot write, such as bytes that are no UTF-8, is spelt out.

    A pipe on Windows takes the letters of one code page alone.
    """
    return text.encode(console.encoding, "backslashreplace").decode(console.encoding)


def _symbol(severity: Severity, console: Console) -> Text:
    symbol, ascii, style = STYLES[severity]
    return Text(symbol if readable(symbol, console) == symbol else ascii, style=style)


def print_examination(examination: Examination, console: Console) -> None:
    """The splits, then what was found, the worst first."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, title in enumerate(SPLIT_HEADER):
        table.add_column(title, justify="right" if number else "left", overflow="fold")
    for row in split_rows(list(examination.tables.splits.values())):
        table.add_row(*(Text(readable(each, console)) for each in row))
    console.print(table)
    last: Severity | None = None
    for finding in examination.findings:
        if finding.severity is not last:
            last = finding.severity
            console.print(Text(f"\n{TITLES[last]}", style="bold"))
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_column(no_wrap=True)
        line.add_column(overflow="fold")
        line.add_row(_symbol(finding.severity, console), Text(readable(str(finding), console)))
        console.print(Padding(line, (0, 0, 0, 1)))
    console.print(Text(f"\n{verdict(examination.findings)}", style="bold"))
