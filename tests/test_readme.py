"""What the README shows works: its Python runs, its commands name what exists."""

import re
import shutil
from pathlib import Path

import pytest

from saccade.cli import COMMANDS
from saccade.presets import presets

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_first_five_lines_of_python_find_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("nano", "test"):
        place = Path("examples", "blood-cells", folder)
        shutil.copytree(ROOT / place, tmp_path / place)
    monkeypatch.chdir(tmp_path)
    exec(blocks("python")[0], {})
    assert "RBC" in capsys.readouterr().out
    assert (tmp_path / "my-detector" / "model.safetensors").is_file()


def test_commands_and_presets_exist() -> None:
    commands = [line.split() for block in blocks("bash") for line in block.splitlines()]
    for words in commands:
        if words and words[0] == "saccade":
            assert words[1] in COMMANDS
        if "--preset" in words:
            assert words[words.index("--preset") + 1] in presets()


def test_pictures_and_files_exist() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        if not link.startswith("http"):
            assert (ROOT / link).exists(), link
