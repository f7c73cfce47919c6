"""What docs/performance.md names exists, and its commands are understood."""

import re
from pathlib import Path

import pytest
import tyro

from saccade.bench.arguments import BenchArguments
from saccade.bench.op_cases import SHAPES, named_cases

PAGE = (Path(__file__).parents[2] / "docs" / "performance.md").read_text("utf-8")
COMMANDS = re.findall(r"saccade bench (op .*?)(?=[`)\n])", PAGE)


def test_every_shape_is_described() -> None:
    assert all(f"`{name}`" in PAGE for name in SHAPES)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command: str) -> None:
    arguments = tyro.cli(BenchArguments, args=command.split())
    named_cases(arguments.shapes, ["local"])


def test_commands_are_found() -> None:
    assert len(COMMANDS) > 4
