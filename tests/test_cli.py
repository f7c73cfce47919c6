import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from saccade import Detector
from saccade.cli import main
from saccade.data import Split
from saccade.model import DetectorModel
from tests.conftest import small_config

OBJECTS = [{"image_id": 1, "category_id": 1, "bbox": [4, 8, 20, 24], "area": 480, "iscrowd": 0}]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    config = small_config("detr")
    Detector(config, DetectorModel(config)).save_pretrained(tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def data(write_coco: Callable[..., Split]) -> Path:
    return write_coco({1: (48, 64), 2: (64, 48)}, OBJECTS).images.parent


def test_a_detector_is_trained_from_the_command_line(data: Path, tmp_path: Path) -> None:
    arguments = f"train --data {data} --preset detr-nano --val-split train --epochs 1 --out"
    options = "--batch-size 1 --model.queries.num-queries 5 --model.input.short-side 64"
    augmentation = "--augmentation.short-sides 64 --augmentation.max-side 128"
    run = str(tmp_path / "run")
    assert main([*arguments.split(), run, *options.split(), *augmentation.split()]) == 0
    assert Detector.from_pretrained(tmp_path / "run" / "best").config.queries.num_queries == 5
    assert main(["eval", "--weights", run + "/last", "--data", str(data), "--split", "train"]) == 0


def test_eval_prints_the_numbers_and_writes_them(
    data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "numbers.json"
    arguments = ["eval", "--weights", str(weights), "--data", str(data), "--split", "train"]
    report = tmp_path / "report.html"
    assert main([*arguments, "--json", str(file), "--report", str(report)]) == 0
    assert "AP50" in capsys.readouterr().out
    assert f"saccade {' '.join(arguments)}" in report.read_text("utf-8")
    assert set(json.loads(file.read_text())["per_class"]) == {"cat", "dog"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rounds", "0"], "--rounds is 0: expected at least 1"),
        (["--threads", "0"], "--threads is 0: expected at least 1"),
        (["--all", "--levels", "8x9"], "exclude each other: give one of them"),
    ],
)
def test_options_of_bench_that_make_no_sense_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["bench", "op", *options])
    assert leaving.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    assert "deformable-detr-r50-two-stage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tarin"], 'there is no command "tarin": expected one of train'),
        (["train"], "no dataset: name its folder with --data"),
        (["train", "--preset", "detr-r51"], 'there is no preset "detr-r51"'),
        (["train", "--preset", "detr-nano", "--config", "x"], "--preset cannot be given with"),
        (["train", "--resume"], "--resume needs the folder of the run"),
        (["train", "--data", "nowhere", "--preset", "detr-nano"], 'nowhere has no split "train"'),
        (["eval", "--weights", "missing.pth", "--data", "nowhere"], "missing.pth"),
        (["predict", "nowhere", "--weights", "missing.pth"], "nowhere does not exist"),
        (["predict", "--weights", "missing.pth"], "no images"),
        (["bench", "op", "--shapes", "encodr"], 'there is no shape "encodr"'),
        (["bench", "op", "--levels", "8by9"], '--levels has "8by9": expected HEIGHTxWIDTH'),
        (["bench", "op", "--levels", "0x9"], "expected sizes of at least 1"),
        (["bench", "op", "--device", "gpu"], '--device is "gpu": expected cpu, cuda or auto'),
        (["bench", "op", "--device", "cpu", "--peer", "official=x"], "--peer needs a GPU"),
    ],
)
def test_unusable_input_is_one_sentence_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("saccade")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("command", ["train", "eval", "predict", "analyse", "presets", "bench"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([command, "--help"])
    assert leaving.value.code == 0
    assert f"saccade {command}" in capsys.readouterr().out


def test_names_that_the_output_has_no_letters_for_end_nothing(
    write_coco: Callable[..., Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where Windows writes to a file or a pipe."""
    data = write_coco({1: (48, 64)}, OBJECTS, [{"id": 1, "name": "猫"}]).images.parent
    config = replace(small_config("detr"), class_names=("猫",))
    Detector(config, DetectorModel(config)).save_pretrained(tmp_path / "weights")
    out = io.TextIOWrapper(io.BytesIO(), "cp1252")
    monkeypatch.setattr(sys, "stdout", out)
    where = ["--weights", str(tmp_path / "weights"), "--data", str(data), "--split", "train"]
    assert main(["eval", *where]) == 0
    out.flush()
    assert b"AP50" in out.buffer.getvalue()
