"""docs/paper-to-code.md names files and functions that exist, and counts that come out."""

import ast
import re
from pathlib import Path

import pytest

from saccade.analysis.counts import count
from saccade.presets import preset_config

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "paper-to-code.md").read_text("utf-8")
PLACES = sorted(set(re.findall(r"`((?:saccade|tests)/[\w/]+\.py)(?:::([\w.]+))?`", PAGE)))
COUNTS = re.findall(r"\| `([\w-]+)` \| ([\d.]+) M \| ([\d.]+) M \| ([\d.]+) G \|", PAGE)


def defined_names(source: str) -> set[str]:
    """Functions and classes of a module, and "Class.method"."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (each for each in node.body if isinstance(each, ast.FunctionDef))
            names |= {f"{node.name}.{method.name}" for method in methods}
    return names


@pytest.mark.parametrize(("file", "name"), PLACES)
def test_the_place_exists(file: str, name: str) -> None:
    source = (ROOT / file).read_text("utf-8")
    assert not name or name in defined_names(source)


def test_every_name_of_code_in_the_table_is_such_a_place() -> None:
    assert len(PLACES) > 50
    mentioned = {each for each in re.findall(r"`([^`]+)`", PAGE) if ".py" in each}
    assert mentioned == {f"{file}::{name}" if name else file for file, name in PLACES}


@pytest.mark.parametrize(("preset", "parameters", "trained", "flops"), COUNTS)
def test_the_counts_are_what_comes_out(
    preset: str, parameters: str, trained: str, flops: str
) -> None:
    counts = count(preset_config(preset))
    assert f"{counts.parameters / 1e6:.1f}" == parameters
    assert f"{counts.trained / 1e6:.1f}" == trained
    assert f"{counts.flops / 1e9:.1f}" == flops


def test_all_counts_are_checked() -> None:
    assert len(COUNTS) == 8
