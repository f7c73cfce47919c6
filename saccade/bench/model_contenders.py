"""Who is measured by `saccade bench model`, each in a process of its own."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from saccade.data import normalise
from saccade.engines import open_engine
from saccade.export.accuracy import average_precision
from saccade.inference import Detector
from saccade.inference.engine import Engine

from .memory import forget_peak, peak_of_process
from .model_arguments import Row

Run = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From uint8 images [B, 3, H, W] to logits [B, Q, K] and boxes [B, Q, 4]."""


@dataclass(frozen=True)
class Task:
    """What a process is to measure."""

    row: Row
    weights: Path
    """A folder that holds the detector in our layout, and in ``transformers/`` in that one."""
    images: np.ndarray
    """uint8 [B, 3, H, W]."""
    threads: int | None
    calibration: Path | None
    data: Path | None = None
    """A dataset to measure AP on."""
    split: str = "val"


def serve_turns(task: Task, connection: Connection) -> None:
    """Get ready, send logits and boxes; then a turn's seconds for every True; at False peak and AP.

    The peak is the most memory that the process has held since it was ready, in bytes, or None
    where the system does not tell. AP is in percent, or None. What fails is sent as a sentence.
    """
    if task.threads is not None:
        torch.set_num_threads(task.threads)
    images = torch.from_numpy(task.images)
    try:
        run, engine = _open(task)
        for _ in range(2):
            logits, boxes = run(images)
    except (ImportError, RuntimeError, ValueError) as error:
        connection.send(f"{type(error).__name__}: {error}")
        return
    connection.send((logits.float().numpy(), boxes.float().numpy()))
    # What reading and converting took is over.
    gc.collect()
    forget_peak()
    while connection.recv():
        start = time.perf_counter()
        run(images)
        connection.send(time.perf_counter() - start)
    peak = peak_of_process()
    ap = None
    if engine is not None and task.data is not None:
        ap = average_precision(engine, task.data, task.split)
    connection.send((peak, ap))


def _open(task: Task) -> tuple[Run, Engine | None]:
    if task.row == "transformers":
        return _open_transformers(task), None
    runtime, _, precision = task.row.partition("-")
    engine = open_engine(
        str(task.weights),
        device="cpu",
        runtime=runtime,  # type: ignore[arg-type]
        precision=precision or "fp32",  # type: ignore[arg-type]
        calibration=task.calibration,
    )

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        predictions = engine(images)
        return predictions.logits, predictions.boxes

    return run, engine


def _open_transformers(task: Task) -> Run:
    """As its users run it: normalised images and a mask, eager, in float32."""
    from transformers import AutoConfig, AutoModelForObjectDetection
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = task.weights / "transformers"
    config = AutoConfig.from_pretrained(folder)
    # The backbone's weights are in the folder as well.
    config.use_pretrained_backbone = False
    model = AutoModelForObjectDetection.from_pretrained(folder, config=config).eval()
    settings = Detector.from_pretrained(task.weights).config.input
    normalised = normalise(torch.from_numpy(task.images), settings)
    mask = torch.ones(normalised.shape[0], *normalised.shape[2:], dtype=torch.long)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001 - prepared above
        with torch.inference_mode():
            found = model(normalised, pixel_mask=mask)
        return found.logits, found.pred_boxes

    return run
