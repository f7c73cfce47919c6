import json
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from saccade import Detector
from saccade.bench.model import run_model_benchmark
from saccade.bench.model_arguments import ModelBenchArguments
from saccade.bench.model_contenders import Task, serve_turns
from saccade.model import DetectorModel
from tests.conftest import small_config


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = small_config("detr")
    Detector(config, DetectorModel(config)).save_pretrained(tmp_path / "weights")
    return tmp_path / "weights"


def turns(task: Task, count: int) -> list[Any]:
    """What a contender answers: its outputs, the seconds of its turns, its peak."""
    ours, theirs = Pipe()
    thread = Thread(target=serve_turns, args=(task, theirs))
    thread.start()
    answers = [ours.recv()]
    if not isinstance(answers[0], str):
        for again in [True] * count + [False]:
            ours.send(again)
            answers.append(ours.recv())
    thread.join()
    return answers


def test_a_contender_tells_its_outputs_then_its_turns_then_its_peak(weights: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 96), dtype=np.uint8)
    (logits, boxes), first, second, (peak, ap) = turns(
        Task("torch", weights, images, None, None), 2
    )
    expected = Detector.from_pretrained(weights).engine(torch.from_numpy(images))
    np.testing.assert_allclose(logits, expected.logits.numpy(), atol=1e-5)
    np.testing.assert_allclose(boxes, expected.boxes.numpy(), atol=1e-5)
    assert min(first, second) > 0
    assert peak is None or peak > 2**20
    assert ap is None


def test_what_a_contender_fails_at_is_a_sentence(tmp_path: Path) -> None:
    images = np.zeros((1, 3, 64, 96), np.uint8)
    (answer,) = turns(Task("torch", tmp_path / "nothing", images, None, None), 1)
    assert answer.startswith("ValueError: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "--rounds is 0: expected at least 1"),
        ({"size": (800, 16)}, "--size is .800, 16.: expected at least 32"),
        ({"preset": "detr-nano", "weights": "x"}, "--preset and --weights exclude each other"),
        ({"rows": ()}, "--rows is empty: name at least one"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelBenchArguments(target="model", **options)


def test_a_detector_that_transformers_lacks_is_told_so(weights: Path, tmp_path: Path) -> None:
    arguments = ModelBenchArguments(target="model", weights=str(weights), size=(64, 96))
    with pytest.raises(ValueError, match=r"transformers has no such detector .*--rows"):
        run_model_benchmark(arguments, ["saccade"], tmp_path / "model.json", Console())


@pytest.mark.slow
def test_all_rows_are_measured_in_turns_and_written_down(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "cache"))
    arguments = ModelBenchArguments(
        target="model",
        weights=str(weights),
        size=(64, 96),
        rows=("torch", "onnxruntime", "openvino", "openvino-int8"),
        rounds=2,
    )
    console = Console(width=80)
    with console.capture() as printed:
        run_model_benchmark(arguments, ["saccade"], tmp_path / "model.json", console)
    record = json.loads((tmp_path / "model.json").read_text())
    assert [result["row"] for result in record["results"]] == list(arguments.rows)
    for result in record["results"]:
        assert result["difference"] < (0.2 if result["row"] == "openvino-int8" else 1e-4)
    assert "openvino-int8" in printed.get()
