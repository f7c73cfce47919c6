import io
from pathlib import Path

import pytest
from rich.console import Console

from saccade.doctor.examination import Examination
from saccade.doctor.findings import Finding, Severity
from saccade.doctor.terminal import print_examination, readable

from .datasets import nano, tables


@pytest.mark.parametrize(
    ("encoding", "symbols"), [("utf-8", "✗!·"), ("cp1252", "x!·"), ("ascii", "x!-")]
)
def test_what_a_pipe_cannot_write_is_written_otherwise(encoding: str, symbols: str) -> None:
    stream = io.BytesIO()
    console = Console(file=io.TextIOWrapper(stream, encoding=encoding), width=80)
    findings = [
        Finding(severity, "boxes", f"猫 on {Path('images')}") for severity in reversed(Severity)
    ]
    examination = Examination("data", "nano", nano(), tables(), tuple(findings))
    print_examination(examination, console)
    console.file.flush()
    lines = [line.strip() for line in stream.getvalue().decode(encoding).splitlines()]
    animal = "猫" if encoding == "utf-8" else "\\u732b"
    for symbol in symbols:
        assert f"{symbol} {animal} on images." in lines


def test_bytes_that_are_no_letters_are_spelt_out() -> None:
    console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert readable("a\udcff.png", console) == "a\\udcff.png"
