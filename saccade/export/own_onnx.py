"""A detector in onnxruntime, converted for it and kept in the cache."""

from functools import partial
from pathlib import Path

from saccade.config import DetectorConfig
from saccade.export.cache import converted, key_of
from saccade.export.files import Order, write_file
from saccade.export.program import Sizes
from saccade.export.runtimes import OnnxRuntimeEngine
from saccade.model import DetectorModel


def open_in_onnxruntime(
    config: DetectorConfig, model: DetectorModel, threads: int | None = None
) -> OnnxRuntimeEngine:
    """A detector in onnxruntime.

    Args:
        config: The detector's.
        model: In evaluation mode, on the CPU, in float32.
        threads: How many threads a call uses; by default as onnxruntime decides.

    Raises:
        ValueError: If onnxruntime is not installed, or the detector cannot be converted.
    """
    write = partial(_write, config, model)
    return OnnxRuntimeEngine(converted(key_of(config, model, "onnx"), write), threads)


def _write(config: DetectorConfig, model: DetectorModel, folder: Path) -> Path:
    file, _ = write_file(Order("onnx", Sizes()), config, model, folder)
    return file
