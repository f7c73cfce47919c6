import json
import shutil
from pathlib import Path

import pytest

from saccade.cli import main

from .datasets import annotations, write_dataset

OPTIONS = ["--preset", "deformable-detr-nano", "--no-measure"]


def healthy_dataset(folder: Path) -> Path:
    train = annotations([[(k, (10.0 * k, 30.0, 60.0, 60.0)) for k in (1, 2, 3)]] * 12)
    return write_dataset(folder, train=train)


def test_a_healthy_dataset_ends_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = healthy_dataset(tmp_path / "data")
    out = tmp_path / "out"
    assert main(["doctor", str(folder), *OPTIONS, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "Nothing here will hurt a run." in said
    assert "report.html" in said
    assert (out / "report.html").is_file()


def test_what_is_sure_to_hurt_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = healthy_dataset(tmp_path / "data")
    shutil.copy(folder / "images" / "2.png", folder / "images" / "101.png")
    assert main(["doctor", str(folder), *OPTIONS, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().out
    assert "Sure to hurt" in said
    assert "1 thing here is sure to hurt a run." in said


def test_options_of_training_are_judged_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = healthy_dataset(tmp_path / "data")
    queries = ["--model.queries.num-queries", "2", "--out", str(tmp_path / "out")]
    assert main(["doctor", str(folder), *OPTIONS, *queries]) == 1
    assert "more objects than the detector's 2 queries" in " ".join(capsys.readouterr().out.split())


def test_no_dataset_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tmp_path), *OPTIONS]) == 2
    assert 'has no split "train"' in capsys.readouterr().err


def test_a_missing_split_to_evaluate_on_hurts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = healthy_dataset(tmp_path / "data")
    (folder / "annotations" / "val.json").unlink()
    assert main(["doctor", str(folder), *OPTIONS, "--out", str(tmp_path / "out")]) == 1
    assert "there is nothing to evaluate on" in " ".join(capsys.readouterr().out.split())


def test_names_in_brackets_and_of_any_bytes_can_be_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = healthy_dataset(tmp_path / "data")
    out = tmp_path / "[red] [" / "b]"
    broken = json.loads((folder / "annotations" / "val.json").read_text())
    broken["images"][0]["file_name"] = "\udcff.png"
    (folder / "annotations" / "val.json").write_text(json.dumps(broken))
    assert main(["doctor", str(folder), *OPTIONS, "--out", str(out)]) == 1
    said = capsys.readouterr().out
    assert "[red] [/b]/report.html" in said
    assert "\\udcff.png" in "".join(said.split())
    assert "\\udcff.png" in (out / "report.html").read_text("utf-8")
