"""A detector converted for OpenVINO with our own kernels, for this machine, kept in a cache."""

import hashlib
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch.export import ExportedProgram

from saccade.config import DetectorConfig
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

    Converting takes some seconds, and calibrating minutes; the result is kept in `cache_folder` for
    the next time.

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
    key = _key(config, model, precision, *(image.numpy().tobytes() for image in images))
    file = cache_folder() / key / "model.xml"
    if not file.exists():
        _convert(config, model, precision, images, file)
    return OpenVinoEngine(file, threads)


def cache_folder() -> Path:
    """Where converted detectors are kept: ``SACCADE_CACHE``, or where the system keeps caches."""
    if "SACCADE_CACHE" in os.environ:
        return Path(os.environ["SACCADE_CACHE"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "saccade"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "saccade"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "saccade"


def _convert(
    config: DetectorConfig, model: DetectorModel, precision: Precision, images: Any, file: Path
) -> None:
    whole = torch.ops.saccade.ms_deform_attn_fused
    program = capture(config, model, Sizes(), attention=whole)
    converted = convert_with_kernel(program)
    if precision == "int8":
        converted = quantise(converted, images, _sensitive_operations(converted, program))
    held = Description(config, "openvino, with saccade's kernels", precision, str(Sizes()))
    file.parent.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent.parent) as folder:
        whole_folder = Path(folder) / "converted"
        whole_folder.mkdir()
        write_openvino(converted, whole_folder / file.name, held.to_dict())
        try:
            # All of it at once, so that another process sees either nothing or everything.
            whole_folder.rename(file.parent)
        except OSError:
            if not file.exists():
                raise


def _sensitive_operations(converted: Any, program: ExportedProgram) -> list[str]:
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
        for operation in converted.get_ops()
        if operation.get_type_name() == "MatMul"
        and operation.get_friendly_name().partition("/")[0] in sensitive
    ]


def _key(config: DetectorConfig, model: DetectorModel, *more: str | bytes) -> str:
    """Everything that the converted detector depends on, as one number."""
    digest = hashlib.sha256()
    versions = [version(package) for package in ("saccade", "torch", "openvino", "nncf")]
    for part in (repr(config), *versions, *more):
        digest.update(part if isinstance(part, bytes) else part.encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
