"""What `saccade bench model` can be asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

Row = Literal["transformers", "torch", "onnxruntime", "openvino", "openvino-int8"]


@dataclass(frozen=True, kw_only=True)
class ModelBenchArguments:
    """Measure a whole detector in several runtimes, beside transformers' where that has it.

    All hold the same weights. Each runs in a process of its own, and they take turns, so that a
    machine whose clock wanders slows all alike. Outputs are compared first.

    Example: saccade bench model --preset deformable-detr-r50 --rounds 7
    """

    target: tyro.conf.Positional[Literal["model"]]
    """What to measure: model, a whole detector."""
    preset: str | None = None
    """Which detector, with random weights; deformable-detr-r50 if neither this nor --weights."""
    weights: str | None = None
    """A detector that has been trained: whatever `saccade predict` takes."""
    size: tuple[int, int] = (800, 1066)
    """Height and width of the image as the detector sees it, in pixels."""
    batch_size: int = 1
    """Images of a batch."""
    rows: tuple[Row, ...] = ("transformers", "torch", "openvino", "openvino-int8")
    """Who is measured. Times are compared with the first one's. Without transformers, or for a
    detector that it does not have, leave it out."""
    calibration: Path | None = None
    """Images by which openvino-int8 is calibrated: a folder; by default generated ones, which serve
    for speed and not for accuracy."""
    data: Path | None = None
    """A dataset whose images the detector knows: its AP in each runtime but transformers'."""
    split: str = "val"
    """Which part of --data."""
    rounds: int = 7
    """Turns of everyone."""
    threads: int | None = None
    """CPU threads; by default as many as torch takes."""
    json: Path | None = None
    """Where all figures go; by default runs/bench/model.json, runs/bench-2/model.json and so on."""

    def __post_init__(self) -> None:
        for name in ("rounds", "threads", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} is {value}: expected at least 1.")
        if min(self.size) < 32:
            raise ValueError(f"--size is {self.size}: expected at least 32 x 32 pixels.")
        if self.preset is not None and self.weights is not None:
            raise ValueError("--preset and --weights exclude each other: give one of them.")
        if not self.rows:
            raise ValueError("--rows is empty: name at least one, such as torch.")
