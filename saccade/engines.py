"""A detector in the runtime that was asked for, from whatever holds it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from saccade.export.own_openvino import Precision
    from saccade.inference import Detector
    from saccade.inference.engine import Engine

Runtime = Literal["torch", "onnxruntime", "openvino"]


def open_engine(
    weights: str,
    preset: str | None = None,
    device: str = "auto",
    runtime: Runtime = "torch",
    precision: "Precision" = "fp32",
    calibration: Path | None = None,
) -> "Engine":
    """A detector that runs, for the commands: this process then keeps the memory that it frees.

    Args:
        weights: Whatever `Detector.from_pretrained` takes, or an exported file or its folder, which
            says by itself which runtime it is for.
        preset: Settles what an official file does not tell.
        device: "cpu", "cuda", "mps", or "auto" for the best there is.
        runtime: What runs it. OpenVINO and onnxruntime convert weights first.
        precision: "int8" for OpenVINO.
        calibration: For int8, a folder of images like those that will be looked at.

    Raises:
        ValueError: If the weights are missing or broken, or cannot run so or there.
    """
    if precision != "fp32" and runtime != "openvino":
        raise ValueError(f"--precision {precision} is for --runtime openvino, not {runtime}.")
    from saccade.export.runtimes import is_exported, open_exported
    from saccade.inference.memory import keep_freed_memory

    keep_freed_memory()
    if is_exported(weights):
        return open_exported(weights)
    if runtime == "torch":
        return load_detector(weights, preset, device).engine
    if device not in ("auto", "cpu"):
        raise ValueError(f"--device is {device}, but {runtime} runs on the CPU here: leave it out.")
    detector = load_detector(weights, preset, "cpu")
    if runtime == "onnxruntime":
        from saccade.export.own_onnx import open_in_onnxruntime

        return open_in_onnxruntime(detector.config, detector.model)
    from saccade.export.own_openvino import open_with_own_kernels

    return open_with_own_kernels(detector.config, detector.model, precision, calibration)


def load_detector(weights: str, preset: str | None = None, device: str = "auto") -> "Detector":
    """The detector on its device, as torch runs it; what was adapted or left out is said.

    Raises:
        ValueError: If the weights are missing or broken, or torch cannot use the device.
    """
    import torch

    from saccade.inference import Detector

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        device = "mps" if torch.backends.mps.is_available() else device
    detector = Detector.from_pretrained(weights, preset=preset)
    report = detector.report
    if report is not None and (report.adapted or report.left_out or report.added):
        print(report, file=sys.stderr)
    try:
        return detector.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f'--device is "{device}", which torch cannot use here '
            f"({str(error).splitlines()[0]}): choose cpu, cuda, mps or auto."
        ) from error
