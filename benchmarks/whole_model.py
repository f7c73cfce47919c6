"""Deformable DETR R50, one image of 800x1066: saccade beside transformers, in one run.

Both models hold the same random weights. They take turns, so that a machine whose clock wanders
slows both; the figure to quote is the median of the ratios.

    python benchmarks/whole_model.py --rounds 7
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

from saccade import Batch, Detector


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Print seconds an image for both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="paired timings (default 7)")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1066), help="height and width")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    config = DeformableDetrConfig(use_pretrained_backbone=False, num_labels=91)
    theirs = DeformableDetrForObjectDetection(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = Detector.from_pretrained(Path(folder)).model
    image = torch.randn(3, *arguments.size)
    batch = Batch.from_images([image])
    mask = torch.ones(1, *arguments.size, dtype=torch.long)

    def run_ours() -> None:
        ours(batch)

    def run_theirs() -> None:
        theirs(image[None], pixel_mask=mask)

    with torch.inference_mode():
        expected = theirs(image[None], pixel_mask=mask).logits
        difference = ((ours(batch).logits - expected).abs().max() / expected.abs().max()).item()
        if difference > 1e-4:
            raise SystemExit(f"the models differ by {difference:.1e}: nothing to compare.")
        pairs = []
        for turn in range(arguments.rounds):
            # Who goes first alternates.
            order = (run_ours, run_theirs) if turn % 2 else (run_theirs, run_ours)
            times = {run: seconds(run) for run in order}
            pairs.append((times[run_ours], times[run_theirs]))
    mine, peer = zip(*pairs, strict=True)
    ratios = sorted(b / a for a, b in pairs)
    print(f"largest relative difference of logits: {difference:.1e}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"saccade       {statistics.median(mine):6.2f} s   ({min(mine):.2f} to {max(mine):.2f})")
    print(f"transformers  {statistics.median(peer):6.2f} s   ({min(peer):.2f} to {max(peer):.2f})")
    print(
        f"ratio         {statistics.median(ratios):6.2f}     ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


if __name__ == "__main__":
    main()
