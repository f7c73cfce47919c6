"""Deformable DETR R50, one image of 800x1066: saccade beside transformers, in one run.

Both models hold the same random weights; a third is transformers' own, its operator replaced by
`saccade.compat.accelerate`. They take turns, so that a machine whose clock wanders slows all; the
figures to quote are the medians of the ratios.

    python benchmarks/whole_model.py --rounds 7
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

from saccade import Batch, Detector
from saccade.compat import accelerate

BASELINE = "transformers"


def contenders(size: tuple[int, int]) -> dict[str, Callable[[], Tensor]]:
    """Functions that return the logits of one image, by name."""
    theirs = DeformableDetrForObjectDetection(
        DeformableDetrConfig(use_pretrained_backbone=False, num_labels=91)
    ).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = Detector.from_pretrained(Path(folder)).model
    accelerated = copy.deepcopy(theirs)
    accelerate(accelerated)
    image = torch.randn(3, *size)
    batch = Batch.from_images([image])
    mask = torch.ones(1, *size, dtype=torch.long)
    return {
        BASELINE: lambda: theirs(image[None], pixel_mask=mask).logits,
        "the same, accelerated": lambda: accelerated(image[None], pixel_mask=mask).logits,
        "saccade": lambda: ours(batch).logits,
    }


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def show(name: str, unit: str, figures: list[float]) -> None:
    """One line: median, smallest and largest."""
    median, least, most = statistics.median(figures), min(figures), max(figures)
    print(f"{name:24}{median:6.2f} {unit}   ({least:.2f} to {most:.2f})")


def main() -> None:
    """Print seconds an image for all, and how many times as fast as transformers each is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="paired timings (default 7)")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1066), help="height and width")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    with torch.inference_mode():
        runs = contenders(tuple(arguments.size))
        expected = runs[BASELINE]()
        for name, run in runs.items():
            difference = ((run() - expected).abs().max() / expected.abs().max()).item()
            if difference > 1e-4:
                raise SystemExit(f"{name}: logits differ by {difference:.1e}, nothing to compare.")
            print(f"{name}: largest relative difference of logits {difference:.1e}")
        times: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(arguments.rounds):
            # Who goes first alternates.
            for name in list(runs)[:: -1 if turn % 2 else 1]:
                times[name].append(seconds(runs[name]))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    for name, figures in times.items():
        show(name, "s", figures)
        if name != BASELINE:
            ratios = [a / b for a, b in zip(times[BASELINE], figures, strict=True)]
            show("", "times as fast", ratios)


if __name__ == "__main__":
    main()
