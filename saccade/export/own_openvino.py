"""A detector converted for OpenVINO with our own kernels, for this machine, kept in a cache."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch.export import ExportedProgram

from saccade.config import DetectorConfig
from saccade.export.cache import converted, key_of
from saccade.export.calibration import calibration_images
from saccade.export.description import Description
from saccade.export.onnx_file import needed
from saccade.export.openvino_file import write_openvino
from saccade.export.openvino_kernel import convert_with_kernel
from saccade.export.program import Sizes, capture
from saccade.export.quantise import is_sensitive, quantise
from saccade.export.runtimes import OpenVinoEngine, switch_telemetry_off
from saccade.model import DetectorModel

Precision = Literal["fp32", "int8"]


def open_with_own_kernels(
    config: DetectorConfig,
    model: DetectorModel,
    precision: Precision = "fp32",
    calibration: Path | None = None,
    threads: int | None = None,
) -> OpenVinoEngine:
    """A detector in OpenVINO, which calls our kernels for deformable attention.

    Converting takes some seconds, and calibrating minutes; the result is kept for the next time in
    `saccade.export.cache.cache_folder`.

    Args:
        config: The detector's.
        model: In evaluation mode, on the CPU, in float32.
        precision: Of convolutions and matrix products; see `saccade.export.quantise`.
        calibration: For int8, a folder of images; without it generated ones, good for measuring
            the speed alone.
        threads: How many threads a call uses; by default as OpenVINO decides.

    Raises:
        ValueError: If OpenVINO or NNCF are not installed, or the detector cannot be converted.
    """
    switch_telemetry_off()
    needed("openvino")
    images = calibration_images(config, calibration) if precision == "int8" else []
    key = key_of(config, model, precision, *(image.numpy().tobytes() for image in images))
    file = converted(key, partial(_write, config, model, precision, images))
    return OpenVinoEngine(file, threads)


def _write(
    config: DetectorConfig, model: DetectorModel, precision: Precision, images: Any, folder: Path
) -> Path:
    whole = torch.ops.saccade.ms_deform_attn_fused
    program = capture(config, model, Sizes(), attention=whole)
    kept_whole = convert_with_kernel(program)
    if precision == "int8":
        kept_whole = quantise(kept_whole, images, _sensitive_operations(kept_whole, program))
    held = Description(config, "openvino, with saccade's kernels", precision, str(Sizes()))
    file = folder / "model.xml"
    write_openvino(kept_whole, file, held.to_dict())
    return file


def _sensitive_operations(model: Any, program: ExportedProgram) -> list[str]:
    """The matrix products that stay in float32, by the parameters that they read."""
    parameters = program.graph_signature.inputs_to_parameters
    sensitive = set()
    for node in program.graph.nodes:
        read = [parameters.get(getattr(each, "name", ""), "") for each in node.args]
        modules = [name.removeprefix("model.").rpartition(".")[0] for name in read if name]
        if any(is_sensitive(module) for module in modules):
            sensitive.add(node.name)
    # An operation is named after the node of the graph that it comes from.
    return [
        operation.get_friendly_name()
        for operation in model.get_ops()
        if operation.get_type_name() == "MatMul"
        and operation.get_friendly_name().partition("/")[0] in sensitive
    ]
