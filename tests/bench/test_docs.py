"""What docs/performance.md names exists, and its commands are understood."""

import re
from pathlib import Path

import pytest
import tyro

from saccade.bench.arguments import BenchArguments
from saccade.bench.op_cases import SHAPES, named_cases

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "performance.md").read_text("utf-8")
COMMANDS = re.findall(r"saccade bench (op .*?)(?=[`)\n])", PAGE)


def test_every_shape_is_described() -> None:
    assert all(f"`{name}`" in PAGE for name in SHAPES)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command: str) -> None:
    arguments = tyro.cli(BenchArguments, args=command.split())
    named_cases(arguments.shapes, ["local"])


def test_commands_are_found() -> None:
    assert len(COMMANDS) > 4


def test_scripts_that_are_named_are_there() -> None:
    scripts = re.findall(r"python (benchmarks/\w+\.py)", PAGE)
    assert scripts
    assert all((ROOT / script).is_file() for script in scripts)
