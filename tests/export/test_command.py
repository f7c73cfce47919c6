import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from saccade import Detector
from saccade.export import command, files
from saccade.export.arguments import ExportArguments
from saccade.export.runtimes import open_exported
from saccade.model import DetectorModel
from tests.conftest import small_config


@pytest.fixture
def detector() -> Detector:
    torch.manual_seed(0)
    config = small_config("detr")
    return Detector(config, DetectorModel(config))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "one.png")
    return folder


def run(detector: Detector, out: Path, **options: Any) -> tuple[int, str]:
    console = Console(width=100)
    arguments = ExportArguments(weights="detector", size=(64, 96), batch=1, **options)
    with console.capture() as printed:
        status = command.export(detector, arguments, out, console)
    return status, printed.get()


def test_a_file_that_passes_is_kept_beside_its_description(
    detector: Detector, pictures: Path, tmp_path: Path
) -> None:
    status, printed = run(detector, tmp_path / "out", images=pictures)
    assert status == 0
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == [
        "model.json",
        "model.onnx",
    ]
    assert "scores" in printed
    description = json.loads((tmp_path / "out" / "model.json").read_text())
    assert description["class_names"] == ["cat", "dog"]
    assert description["checked"]["passed"] is True
    engine = open_exported(tmp_path / "out")
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    torch.testing.assert_close(
        engine(images).boxes, detector.engine(images).boxes, atol=1e-4, rtol=0
    )


def test_a_damaged_file_is_not_kept_and_the_layer_is_named(
    detector: Detector, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damage(order: Any, config: Any, model: DetectorModel, *rest: Any) -> Any:
        worse = copy.deepcopy(model)
        with torch.no_grad():
            worse.encoder.layers[1].ffn.contract.weight.mul_(3)
        return files.write_file(order, config, worse, *rest)

    monkeypatch.setattr(command, "write_file", damage)
    status, printed = run(detector, tmp_path / "out", images=pictures, tolerance=1e-6)
    assert status == 1
    assert list((tmp_path / "out").iterdir()) == []
    assert "It departs first at encoder.layers.1" in " ".join(printed.split())


def test_a_torch_program_has_one_precision(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a torch program is written in fp32, not fp16"):
        run(detector, tmp_path / "out", to="torch", precision="fp16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "int8 needs --calibration"),
        ({"size": (8, 8)}, "--size is .8, 8.: expected at least 32 x 32 pixels"),
        ({"batch": 0}, "--batch is 0: expected at least 1"),
        ({"tolerance": -1.0}, "--tolerance is -1.0: expected 0 or more"),
        ({"threshold": 2.0}, "--threshold is 2.0: expected a score from 0 to 1"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExportArguments(weights="detector", **options)
