"""OpenVINO models: an ``.xml`` file and its ``.bin``."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from saccade.export.bags import extension, translation
from saccade.export.onnx_file import needed, write_onnx
from saccade.export.runtimes import switch_telemetry_off


def to_openvino(program: ExportedProgram, outputs: Sequence[str] = ("logits", "boxes")) -> Any:
    """A graph as an `openvino.Model` of OpenVINO's own operators.

    Args:
        program: Of operators of torch's, and `saccade.export.bags.sum_rows`.
        outputs: Names of the graph's outputs.
    """
    switch_telemetry_off()
    openvino = needed("openvino")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        write_onnx(program, file, {}, outputs, translation())
        core = openvino.Core()
        core.add_extension(extension())
        model = core.read_model(file)
        # Weights are read from the file as they are needed.
        return model.clone()


def write_openvino(model: Any, file: Path, held: Mapping[str, Any], half: bool = False) -> None:
    """Write a model and what it holds, as ``rt_info``.

    Args:
        model: An `openvino.Model`.
        file: The ``.xml`` file; the ``.bin`` file is beside it. Overwritten.
        held: What users need to know.
        half: Store weights in float16. OpenVINO calculates with them in float32 on a CPU.
    """
    openvino = needed("openvino")
    for name, value in held.items():
        text = value if isinstance(value, str) else json.dumps(value)
        model.set_rt_info(text, ["saccade", name])
    openvino.save_model(model, file, compress_to_fp16=half)
