"""What `saccade export` can be asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Write a detector as a file that other runtimes run, and check that it still finds the same.

    Example: saccade export examples/blood-cells/nano --to onnx --data examples/blood-cells
    """

    weights: tyro.conf.Positional[str]
    """A run's best/ or last/, an official .pth file, a transformers folder, or a hub id."""
    to: Literal["onnx", "openvino", "torch"] = "onnx"
    """An ONNX file; an OpenVINO model; or a torch program (.pt2), which needs torch alone."""
    out: Path | None = None
    """The folder for the file and its description; by default runs/export, runs/export-2..."""
    size: tuple[int, int] | None = None
    """Height and width in pixels, if the file is for one size; by default it is for any."""
    batch: int | None = None
    """Number of images, if the file is for one number; by default it is for any."""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """Of the calculation, but for what is sensitive: see docs/deployment.md."""
    calibration: Path | None = None
    """For int8: a folder of images like those that will be looked at, a few hundred at best."""
    images: Path | None = None
    """A folder of images to check the file with; by default those of --data or --calibration, or
    generated ones."""
    data: Path | None = None
    """A dataset with which to check the file's AP too; it then decides, and differences do not."""
    split: str = "val"
    """Which part of --data."""
    tolerance: float | None = None
    """The largest difference of scores and of boxes, for fp16 and int8 that of 95 % of them; with
    --data the largest loss of AP in percent points. By default 0.001 or 0.1 for fp32, 0.05 or 0.3
    for fp16, 0.1 or 0.5 for int8."""
    threshold: float = 0.3
    """The score from which the file's users are told to believe a detection, 0 to 1."""
    preset: str | None = None
    """Settles what an official file does not tell; see `saccade presets`."""

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"--batch is {self.batch}: expected at least 1.")
        if self.size is not None and min(self.size) < 32:
            raise ValueError(f"--size is {self.size}: expected at least 32 x 32 pixels.")
        if self.precision == "int8" and self.calibration is None:
            raise ValueError("int8 needs --calibration: name a folder of images like yours.")
        if self.tolerance is not None and not self.tolerance >= 0:
            raise ValueError(f"--tolerance is {self.tolerance}: expected 0 or more.")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"--threshold is {self.threshold}: expected a score from 0 to 1.")
