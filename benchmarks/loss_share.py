"""Where the time of a training step goes, and how much of it matching and loss take.

Two-stage Deformable DETR R50: 300 queries after each of six layers, and all proposals, are
matched with 100 objects in each image. The step is cut where predictions are handed to the loss.

    python benchmarks/loss_share.py --objects 100
"""

import argparse
import statistics
import time
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from saccade import Batch
from saccade.model import DetectorModel
from saccade.presets import preset_config
from saccade.recipe_config import LossConfig
from saccade.structures import Predictions, Targets
from saccade.training import SetCriterion


def cut(predictions: Predictions, found: list[tuple[Tensor, Tensor]]) -> Predictions:
    """The same predictions as leaves; `found` gets every tensor with its leaf."""

    def leaf(value: Any) -> Any:
        if isinstance(value, Predictions):
            return cut(value, found)
        if isinstance(value, tuple):
            return tuple(leaf(each) for each in value)
        if isinstance(value, Tensor) and value.requires_grad:
            found.append((value, value.detach().requires_grad_()))
            return found[-1][1]
        return value

    return replace(
        predictions,
        **{each.name: leaf(getattr(predictions, each.name)) for each in fields(predictions)},
    )


def main() -> None:
    """Print the median share of each part of a step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="steps (default 5)")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 640), help="height and width")
    parser.add_argument("--images", type=int, default=2, help="of a batch (default 2)")
    parser.add_argument("--objects", type=int, default=100, help="of each image (default 100)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    config = preset_config("deformable-detr-r50-two-stage")
    model = DetectorModel(config).train()
    criterion = SetCriterion(LossConfig(), config.num_classes)
    height, width = arguments.size
    batch = Batch.from_images([torch.randn(3, height, width) for _ in range(arguments.images)])
    starts = torch.rand(arguments.images, arguments.objects, 2) * 0.8
    corners = torch.cat([starts, starts + 0.02 + 0.18 * torch.rand_like(starts)], -1)
    targets = [
        Targets(
            boxes * torch.tensor([width, height, width, height]),
            torch.randint(config.num_classes, (arguments.objects,)),
            (height, width),
        )
        for boxes in corners
    ]
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    parts: dict[str, list[float]] = {}
    for turn in range(arguments.rounds + 1):
        marks = [time.perf_counter()]
        predictions = model(batch, targets)
        marks.append(time.perf_counter())
        ends: list[tuple[Tensor, Tensor]] = []
        criterion.total(criterion(cut(predictions, ends), targets)).backward()
        marks.append(time.perf_counter())
        used = [(tensor, leaf.grad) for tensor, leaf in ends if leaf.grad is not None]
        torch.autograd.backward([a for a, _ in used], [b for _, b in used])
        marks.append(time.perf_counter())
        torch.nn.utils.clip_grad_norm_(trained, 0.1)
        optimizer.step()
        optimizer.zero_grad()
        marks.append(time.perf_counter())
        # The first step compiles kernels.
        if turn:
            names = ("model, forward", "matching and loss", "model, backward", "optimiser")
            for name, start, end in zip(names, marks, marks[1:], strict=False):
                parts.setdefault(name, []).append((end - start) / (marks[-1] - marks[0]))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name, shares in parts.items():
        median = statistics.median(shares)
        print(f"{name:20}{median:7.1%}   ({min(shares):.1%} to {max(shares):.1%})")


if __name__ == "__main__":
    main()
