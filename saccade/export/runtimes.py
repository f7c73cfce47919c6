"""Exported detectors as engines: each runs images of one size and returns predictions."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from saccade.config import DetectorConfig
from saccade.export.description import config_of
from saccade.export.onnx_file import needed
from saccade.export.openvino_kernel import operation
from saccade.inference.engine import Engine
from saccade.structures import Predictions

SUFFIXES = (".onnx", ".xml", ".pt2")
"""Of exported files."""
MOST_SHAPES = 2
"""Of images, for which OpenVINO keeps a model each: photographs are wide or tall."""
DESCRIPTION = "model.json"
"""The file beside an exported one that describes it."""


def is_exported(path: str | Path) -> bool:
    """Whether it is such a file, or a folder with one."""
    return exported_file(Path(path)) is not None


def exported_file(path: Path) -> Path | None:
    """The exported file that a path means: itself, or the only one in a folder."""
    if path.suffix in SUFFIXES and path.is_file():
        return path
    if not path.is_dir():
        return None
    found = [file for suffix in SUFFIXES for file in sorted(path.glob(f"model{suffix}"))]
    return found[0] if len(found) == 1 else None


class ExportedEngine(Engine, Protocol):
    """An exported detector in its runtime."""

    def run(self, images: UInt8[Tensor, "B 3 H W"]) -> Sequence[Any]:
        """All outputs of the graph, as arrays or tensors: logits, boxes, then those of probes."""


def open_exported(path: str | Path, threads: int | None = None) -> ExportedEngine:
    """An exported detector in the runtime that its file is for.

    Args:
        path: An ``.onnx``, ``.xml`` (OpenVINO) or ``.pt2`` (torch) file, or the folder of one.
        threads: How many threads a call uses; by default as the runtime decides.

    Raises:
        ValueError: If there is no such file, it is broken or not a detector's, or the runtime is
            not installed.
    """
    file = exported_file(Path(path))
    if file is None:
        raise ValueError(
            f"{path} is no exported detector: expected one file of {', '.join(SUFFIXES)}, or the "
            "folder that saccade export wrote."
        )
    kinds: dict[str, Callable[[Path, int | None], ExportedEngine]] = {
        ".onnx": OnnxRuntimeEngine,
        ".xml": OpenVinoEngine,
        ".pt2": TorchProgramEngine,
    }
    return kinds[file.suffix](file, threads)


class OnnxRuntimeEngine:
    """An ONNX file in onnxruntime, on the CPU."""

    def __init__(self, file: Path, threads: int | None = None) -> None:
        """Read the file; see `open_exported`."""
        runtime = needed("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self.session = runtime.InferenceSession(
                file, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's have no base of their own
            raise ValueError(f"{file} cannot be read by onnxruntime: {_first(error)}") from error
        held = self.session.get_modelmeta().custom_metadata_map
        self.config = config_of(held, file)

    def __call__(self, images: UInt8[Tensor, "B 3 H W"]) -> Predictions:
        """Detect the objects of resized RGB images of one size; float32, on the CPU."""
        return _predictions(self.run(images))

    def run(self, images: UInt8[Tensor, "B 3 H W"]) -> list[Any]:
        """All outputs of the graph, as arrays: logits, boxes, then those of probes."""
        pixels = images.cpu().contiguous().numpy()
        try:
            found: list[Any] = self.session.run(None, {"images": pixels})
        except Exception as error:
            raise _unfit(images, "onnxruntime", error) from error
        return found


class OpenVinoEngine:
    """An OpenVINO model (``.xml`` and ``.bin``), on the CPU.

    A model for images of any size is compiled for one when its shape comes a second time: it then
    runs somewhat faster, but compiling takes time, and memory for another copy of the weights, so
    that only the last `MOST_SHAPES` are kept.
    """

    def __init__(self, file: Path, threads: int | None = None) -> None:
        """Read the model; see `open_exported`."""
        switch_telemetry_off()
        openvino = needed("openvino")
        # Newer processors would calculate in bfloat16 unasked.
        self.options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None:
            self.options["INFERENCE_NUM_THREADS"] = str(threads)
        self.core = openvino.Core()
        # For those that saccade converted for itself.
        self.core.add_extension(operation())
        try:
            self.model = self.core.read_model(file)
            self.any_shape = self._compile(self.model)
        except RuntimeError as error:
            raise ValueError(f"{file} cannot be read by OpenVINO: {_first(error)}") from error
        path = ["saccade", "config"]
        held = self.model.get_rt_info(path).value if self.model.has_rt_info(path) else None
        self.config = config_of({"config": held}, file)
        self.requests: dict[tuple[int, ...], Any] = {}
        self.seen: set[tuple[int, ...]] = set()

    def __call__(self, images: UInt8[Tensor, "B 3 H W"]) -> Predictions:
        """Detect the objects of resized RGB images of one size; float32, on the CPU."""
        return _predictions(self.run(images))

    def run(self, images: UInt8[Tensor, "B 3 H W"]) -> list[Any]:
        """All outputs of the graph, as arrays: logits, boxes, then those of probes."""
        pixels = images.cpu().contiguous().numpy()
        try:
            request = self._request(pixels.shape)
            found = request.infer([pixels], share_inputs=True)
        except RuntimeError as error:
            raise _unfit(images, "OpenVINO", error) from error
        return [found[output] for output in request.get_compiled_model().outputs]

    def _request(self, shape: tuple[int, ...]) -> Any:
        """What runs images of this shape."""
        if not self.model.is_dynamic() or shape not in self.seen:
            self.seen.add(shape)
            return self.any_shape
        request = self.requests.pop(shape, None)
        if request is None:
            for_shape = self.model.clone()
            for_shape.reshape(list(shape))
            request = self._compile(for_shape)
        # At the end, where what was used last is.
        self.requests[shape] = request
        if len(self.requests) > MOST_SHAPES:
            self.requests.pop(next(iter(self.requests)))
        return request

    def _compile(self, model: Any) -> Any:
        return self.core.compile_model(model, "CPU", self.options).create_infer_request()


class TorchProgramEngine:
    """A torch program (``.pt2``), which needs torch alone."""

    def __init__(self, file: Path, threads: int | None = None) -> None:
        """Read the program; see `open_exported`."""
        held = {"config": ""}
        try:
            program = torch.export.load(file, extra_files=held)
        except (RuntimeError, ValueError, OSError, KeyError, BadZipFile) as error:
            raise ValueError(f"{file} cannot be read by torch: {_first(error)}") from error
        self.config: DetectorConfig = config_of({"config": held["config"] or None}, file)
        self.module = program.module()
        self.threads = threads

    def __call__(self, images: UInt8[Tensor, "B 3 H W"]) -> Predictions:
        """Detect the objects of resized RGB images of one size; float32, on the CPU."""
        return _predictions(self.run(images))

    @torch.inference_mode()
    def run(self, images: UInt8[Tensor, "B 3 H W"]) -> list[Any]:
        """All outputs of the graph, as arrays: logits, boxes, then those of probes."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            found: list[Tensor] = self.module(images.cpu())
        except (RuntimeError, AssertionError) as error:
            raise _unfit(images, "torch", error) from error
        finally:
            torch.set_num_threads(before)
        return [output.numpy() for output in found]


def switch_telemetry_off() -> None:
    """Keep OpenVINO and NNCF from sending anything anywhere; before they are imported.

    Both send what is done with them to their makers, unless somebody has refused in a file in the
    home folder, and neither reads an environment variable for it. Without the package that sends
    they run as well. A program that has imported OpenVINO before has decided for itself.
    """
    import sys

    # What imports it from now on gets an ImportError, for which both are prepared.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def _predictions(found: list[Any]) -> Predictions:
    # A copy: runtimes write the next call's outputs into the same memory.
    logits, boxes = (torch.from_numpy(np.array(each, np.float32)) for each in found[:2])
    return Predictions(logits, boxes)


def _unfit(images: Tensor, runtime: str, error: Exception) -> ValueError:
    return ValueError(
        f"{runtime} cannot run images of shape {list(images.shape)} ({_first(error)}): was the "
        "detector exported for this number and size of images?"
    )


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
