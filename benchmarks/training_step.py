"""A training step of two-stage Deformable DETR R50: saccade beside transformers, in one run.

Both models hold the same random weights and see the same two images and objects; a step is forward,
loss, backward, clipping and AdamW. They take turns, so that a machine whose clock wanders slows
both; the figures to quote are the medians of the ratios. Memory is the peak of a process of its own
over two steps, beyond what it held once model, optimiser and images were made (Linux only).

    python benchmarks/training_step.py --rounds 5
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

from saccade import Batch, Detector
from saccade.recipe_config import LossConfig
from saccade.structures import Targets
from saccade.training import SetCriterion

THEIRS, OURS = "transformers", "saccade"
Loss = Callable[[], Tensor]


def build(name: str, size: tuple[int, int], images: int, objects: int) -> tuple[nn.Module, Loss]:
    """The model and a function that returns its weighted loss on the same images and objects."""
    torch.manual_seed(0)
    theirs = DeformableDetrForObjectDetection(
        DeformableDetrConfig(
            use_pretrained_backbone=False,
            num_labels=91,
            two_stage=True,
            with_box_refine=True,
            auxiliary_loss=True,
            dropout=0.1,
        )
    )
    pixels = torch.randn(images, 3, *size)
    centres = torch.rand(images, objects, 2) * 0.6 + 0.2
    boxes = torch.cat([centres, torch.rand(images, objects, 2) * 0.3 + 0.05], -1)
    labels = torch.randint(91, (images, objects))
    if name == THEIRS:
        mask = torch.ones(images, *size, dtype=torch.long)
        described = [{"class_labels": a, "boxes": b} for a, b in zip(labels, boxes, strict=True)]
        theirs.train()
        return theirs, lambda: theirs(pixels, pixel_mask=mask, labels=described).loss
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = Detector.from_pretrained(Path(folder)).model.train()
    del theirs
    batch = Batch.from_images(list(pixels))
    height, width = size
    corners = torch.cat(
        [boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1
    )
    corners = corners * torch.tensor([width, height, width, height])
    targets = [Targets(b, a, size) for a, b in zip(labels, corners, strict=True)]
    criterion = SetCriterion(LossConfig(), 91)
    return ours, lambda: criterion.total(criterion(ours(batch, targets), targets))


def stepper(model: nn.Module, loss: Loss) -> Callable[[], float]:
    """A function that takes one step and returns its loss."""
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)

    def step() -> float:
        total = loss()
        total.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.1)
        optimizer.step()
        optimizer.zero_grad()
        return total.item()

    return step


def status_mib(field: str) -> float:
    """A line of what Linux tells of this process, in MiB."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"this system does not tell {field}: memory is measured on Linux only.")


def measure_memory(name: str, arguments: argparse.Namespace) -> None:
    """Print, as JSON, the peak of two steps and what the process held before, in MiB."""
    model, loss = build(name, tuple(arguments.size), arguments.images, arguments.objects)
    step = stepper(model, loss)
    before = status_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", "utf-8")
    step()
    step()
    print(json.dumps({"peak": status_mib("VmHWM"), "before": before}))


def show(name: str, unit: str, figures: list[float]) -> None:
    """One line: median, smallest and largest."""
    median, least, most = statistics.median(figures), min(figures), max(figures)
    print(f"{name:24}{median:7.2f} {unit}   ({least:.2f} to {most:.2f})")


def main() -> None:
    """Print seconds and peak memory of a step for both, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="paired timings (default 5)")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 640), help="height and width")
    parser.add_argument("--images", type=int, default=2, help="of a batch (default 2)")
    parser.add_argument("--objects", type=int, default=10, help="of each image (default 10)")
    parser.add_argument("--memory-of", choices=(THEIRS, OURS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        measure_memory(arguments.memory_of, arguments)
        return

    size = tuple(arguments.size)
    peaks = {}
    for name in (THEIRS, OURS):
        command = [sys.executable, *sys.argv, "--memory-of", name]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        memory = json.loads(said.splitlines()[-1])
        peaks[name] = memory["peak"] - memory["before"]
        print(f"{name:24}{peaks[name]:7.0f} MiB beyond {memory['before']:.0f}")
    print(f"{'':24}{peaks[OURS] / peaks[THEIRS]:7.2f} of transformers' memory\n")

    steps = {
        name: stepper(*build(name, size, arguments.images, arguments.objects))
        for name in (THEIRS, OURS)
    }
    for name, step in steps.items():
        print(f"{name}: loss of the first step {step():.3f}")
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(arguments.rounds):
        for name in list(steps)[:: -1 if turn % 2 else 1]:
            start = time.perf_counter()
            steps[name]()
            times[name].append(time.perf_counter() - start)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    for name, figures in times.items():
        show(name, "s a step", figures)
    ratios = [a / b for a, b in zip(times[THEIRS], times[OURS], strict=True)]
    show("", "times as fast", ratios)


if __name__ == "__main__":
    main()
