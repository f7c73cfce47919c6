import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from saccade import Detector
from saccade.export.files import Order, Target, write_file
from saccade.export.program import Sizes
from saccade.export.runtimes import exported_file, is_exported, open_exported, switch_telemetry_off
from tests.export.small import pixels, small_detector

FIXED = Sizes(1, 96, 128)
CASES: dict[str, tuple[str, Target, Sizes]] = {
    "onnx of any size": ("two-stage", "onnx", Sizes()),
    "onnx of one size": ("learned", "onnx", FIXED),
    "onnx of detr": ("detr", "onnx", Sizes()),
    "openvino of any size": ("two-stage", "openvino", Sizes()),
    "openvino of one size": ("two-stage", "openvino", FIXED),
    "torch of any size": ("two-stage", "torch", Sizes()),
}


QUICK = ("onnx of one size", "onnx of detr", "openvino of one size")


@pytest.fixture(
    scope="module",
    params=[
        each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in CASES
    ],
)
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Detector, Path, Sizes]:
    kind, target, sizes = CASES[request.param]
    detector = small_detector(kind)
    file, _ = write_file(
        Order(target, sizes), detector.config, detector.model, tmp_path_factory.mktemp("export")
    )
    return detector, file, sizes


def test_an_exported_detector_finds_the_same(written: tuple[Detector, Path, Sizes]) -> None:
    detector, file, sizes = written
    engine = open_exported(file, threads=1)
    shapes = [(1, 3, 96, 128)] if sizes.fixed else [(1, 3, 96, 128), (3, 3, 117, 95)]
    # Once more, since OpenVINO compiles for a shape that comes again.
    for shape in [*shapes, *shapes]:
        images = pixels(*shape)
        found, expected = engine(images), detector.engine(images)
        torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=2e-4)
        torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=2e-5)


def test_a_file_holds_its_configuration(written: tuple[Detector, Path, Sizes]) -> None:
    detector, file, _ = written
    assert open_exported(file, threads=1).config == detector.config
    assert is_exported(file)
    assert exported_file(file.parent) == file


@pytest.mark.slow
def test_images_of_a_wrong_size_are_refused_in_words(tmp_path: Path) -> None:
    detector = small_detector("learned")
    file, _ = write_file(Order("onnx", FIXED), detector.config, detector.model, tmp_path)
    with pytest.raises(ValueError, match=r"cannot run images of shape \[1, 3, 64, 64\]"):
        open_exported(file)(pixels(1, 3, 64, 64))


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_broken_files_are_refused_by_name(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"model{suffix}"
    file.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=rf"model\{suffix} cannot be read by"):
        open_exported(file)


def test_nothing_is_no_exported_detector(tmp_path: Path) -> None:
    assert not is_exported(tmp_path)
    with pytest.raises(ValueError, match="is no exported detector"):
        open_exported(tmp_path)


def test_what_sends_cannot_be_imported_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    switch_telemetry_off()
    with pytest.raises(ImportError):
        import_module("openvino_telemetry")


@pytest.mark.slow
@pytest.mark.slow
def test_nothing_is_sent_to_the_makers_of_runtimes(tmp_path: Path) -> None:
    program = (
        "from saccade.export.runtimes import switch_telemetry_off; switch_telemetry_off()\n"
        "import sys, openvino, nncf\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry.')]"
    )
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ | home)
    # Where the package that sends keeps what it knows a user by.
    assert not (tmp_path / "intel").exists()
