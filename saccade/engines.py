"""A detector in the runtime that was asked for, from whatever holds it."""

import sys
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from saccade.inference import Detector
    from saccade.inference.engine import Engine

Runtime = Literal["torch", "onnxruntime", "openvino"]


def open_engine(
    weights: str, preset: str | None = None, device: str = "auto", runtime: Runtime = "torch"
) -> "Engine":
    """A detector that runs.

    Args:
        weights: Whatever `Detector.from_pretrained` takes.
        preset: Settles what an official file does not tell.
        device: "cpu", "cuda", "mps", or "auto" for the best there is.
        runtime: What runs it.

    Raises:
        ValueError: If the weights are missing or broken, or cannot run so or there.
    """
    if runtime != "torch":
        raise ValueError(f'--runtime is "{runtime}": only torch runs yet.')
    return load_detector(weights, preset, device).engine


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
