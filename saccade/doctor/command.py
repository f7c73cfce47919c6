"""What the command `saccade doctor` does."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from saccade.cli_arguments import DoctorArguments
from saccade.doctor.examination import examine
from saccade.doctor.findings import hurts
from saccade.doctor.report import write_report
from saccade.doctor.terminal import print_examination, readable, showing
from saccade.settings import free_folder


def examine_and_report(arguments: DoctorArguments, command: Sequence[str], console: Console) -> int:
    """Examine, print, and write ``report.html``.

    Returns:
        The exit status: 1 if something is sure to hurt, otherwise 0.

    Raises:
        ValueError: If there is no dataset, or no split to train on.
        OSError: If the report cannot be written.
    """
    out = arguments.out or free_folder(Path("runs/doctor"))
    run = replace(arguments.run, data=str(arguments.folder))
    detector = arguments.preset or run.weights or str(arguments.config or "the default preset")
    with showing(console) as stage:
        examination = examine(
            arguments.folder,
            run,
            detector,
            stage,
            measured=arguments.measure,
            num_processes=arguments.processes,
        )
    print_examination(examination, console)
    out.mkdir(parents=True, exist_ok=True)
    write_report(out / "report.html", examination, shlex.join(command))
    console.print(Text(readable(f"With pictures: {out / 'report.html'}", console)), soft_wrap=True)
    return 1 if hurts(examination.findings) else 0
