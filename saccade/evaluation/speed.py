"""How many images a second a detector takes, and how much memory of the GPU."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from saccade.structures import Batch

LEAST_RUNS = 3


@dataclass(frozen=True)
class Speed:
    """What `measure_speed` saw."""

    images_per_second: float
    """Images of the batch divided by the median of the runs."""
    seconds: float
    """The median of the runs, one batch each."""
    quickest: float
    """The quickest run, in seconds; where it is far below the median, the machine was busy."""
    num_runs: int
    peak_mib: float | None
    """The most memory of the GPU that tensors took, weights included; None on a CPU."""


def measure_speed(
    predict: Callable[[Batch], object], batch: Batch, seconds: float = 5.0, num_warm: int = 2
) -> Speed:
    """Time a detector on one batch, again and again.

    Reading, resizing and drawing are not part of it. For a figure that others can compare, take a
    batch of one image of 800 x 1120 pixels (`saccade.analysis.counts.AVERAGE_SIZE`), and say on
    which machine.

    Args:
        predict: The detector in evaluation mode, with its postprocessing if that should count.
        batch: On the device of the detector.
        seconds: How long to measure; at least three runs are measured in any case.
        num_warm: Runs before, which are not measured: they compile kernels and fill caches.

    Raises:
        ValueError: If `seconds` is not a positive number.
    """
    if not seconds > 0:
        raise ValueError(f"seconds is {seconds}: expected how long to measure, such as 5.")
    device = batch.images.device
    on_gpu = device.type == "cuda"
    runs: list[float] = []
    with torch.inference_mode():
        for _ in range(num_warm):
            predict(batch)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        while sum(runs) < seconds or len(runs) < LEAST_RUNS:
            if on_gpu:
                torch.cuda.synchronize(device)
            start = time.perf_counter()
            predict(batch)
            if on_gpu:
                torch.cuda.synchronize(device)
            runs.append(time.perf_counter() - start)
    middle = median(runs)
    return Speed(
        images_per_second=len(batch.sizes) / middle,
        seconds=middle,
        quickest=min(runs),
        num_runs=len(runs),
        peak_mib=torch.cuda.max_memory_allocated(device) / 2**20 if on_gpu else None,
    )
