from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from saccade import Detector
from saccade.export.files import Order, write_file
from saccade.export.fp16 import halve_onnx
from saccade.export.onnx_graph import Graph, fold_norms
from saccade.export.program import Sizes
from saccade.export.runtimes import open_exported
from tests.export.small import pixels, small_detector

Written = tuple[Detector, Path, Path]


@pytest.fixture(scope="module", params=["learned", "detr"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    detector = small_detector(str(request.param))
    whole, _ = write_file(
        Order("onnx", Sizes()), detector.config, detector.model, tmp_path_factory.mktemp("whole")
    )
    half = tmp_path_factory.mktemp("half") / "model.onnx"
    half.write_bytes(whole.read_bytes())
    halve_onnx(half)
    return detector, whole, half


def kinds(file: Path) -> dict[str, set[int]]:
    """By type of operation, which types of numbers it reads."""
    model = onnx.shape_inference.infer_shapes(onnx.load(file), strict_mode=True)
    types = {each.name: each.data_type for each in model.graph.initializer}
    values: Iterable[Any] = [*model.graph.value_info, *model.graph.input, *model.graph.output]
    types |= {each.name: each.type.tensor_type.elem_type for each in values}
    found: dict[str, set[int]] = {}
    for node in model.graph.node:
        found.setdefault(node.op_type, set()).update(types[name] for name in node.input if name)
    return found


def test_convolutions_are_halves_and_places_are_not(written: Written) -> None:
    detector, _, file = written
    onnx.checker.check_model(onnx.load(file), full_check=True)
    read = kinds(file)
    assert read["Conv"] == {onnx.TensorProto.FLOAT16}
    assert onnx.TensorProto.FLOAT16 in read["MatMul"]
    for kind in ("GridSample", "Softmax", "LayerNormalization", "Sin"):
        assert onnx.TensorProto.FLOAT16 not in read.get(kind, set()), kind
    assert "Softmax" in read


def test_inputs_and_outputs_and_what_is_held_stay(written: Written) -> None:
    _, whole, half = (written[0], *(onnx.load(file) for file in written[1:]))
    assert half.graph.input == whole.graph.input
    assert half.graph.output == whole.graph.output
    assert half.metadata_props == whole.metadata_props


def test_half_a_file_finds_nearly_the_same(written: Written) -> None:
    detector, whole, half = written
    assert half.stat().st_size < 0.7 * whole.stat().st_size
    engine = open_exported(half, threads=1)
    for shape in ((1, 3, 96, 128), (2, 3, 117, 95)):
        images = pixels(*shape)
        found, expected = engine(images), detector.engine(images)
        torch.testing.assert_close(
            found.logits.sigmoid(), expected.logits.sigmoid(), rtol=0, atol=1e-2
        )
        torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=1e-2)
        assert not torch.equal(found.logits, expected.logits)


def test_folding_norms_changes_nothing(written: Written, tmp_path: Path) -> None:
    detector, whole, _ = written
    model = onnx.load(whole)
    before = sum(node.op_type == "BatchNormalization" for node in model.graph.node)
    fold_norms(Graph(model.graph))
    assert before > 0
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)
    onnx.save(model, tmp_path / "model.onnx")
    images = pixels(1, 3, 96, 128)
    found = open_exported(tmp_path / "model.onnx", threads=1)(images)
    torch.testing.assert_close(found.logits, detector.engine(images).logits, rtol=0, atol=2e-4)


def test_weights_beyond_halves_stay_whole(tmp_path: Path) -> None:
    detector = small_detector("detr")
    convolution = detector.model.get_submodule("neck")
    weights = next(each for each in convolution.parameters() if each.dim() == 4)
    with torch.no_grad():
        weights[0, 0] = 1e5
    file, _ = write_file(Order("onnx", Sizes(), "fp16"), detector.config, detector.model, tmp_path)
    assert kinds(file)["Conv"] == {onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT}
    assert torch.isfinite(open_exported(file, threads=1)(pixels(1, 3, 96, 128)).logits).all()
