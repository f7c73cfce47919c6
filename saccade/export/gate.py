"""Whether an exported detector still finds the same, in the runtime that it is for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from saccade.export.program import WholeDetector
from saccade.inference.engine import Engine, TorchEngine
from saccade.model import DetectorModel
from saccade.structures import Predictions

LEAST_SCORE = 0.05
"""Queries that score less in the original are not compared: nobody sees what they say."""


@dataclass(frozen=True)
class Tolerance:
    """What may differ."""

    difference: float
    """Of scores (0 to 1) and boxes (fraction of image)."""
    ap: float
    """Of AP in percent points, if it can be had: then the differences above do not decide."""
    share: float = 1.0
    """Of the numbers that are compared, how many may differ by no more. All in float32; elsewhere
    near-tied proposals change places, and a few queries find something else."""


TOLERANCES = {
    "fp32": Tolerance(1e-3, 0.1),
    "fp16": Tolerance(5e-2, 0.3, share=0.95),
    "int8": Tolerance(0.1, 0.5, share=0.95),
}


@dataclass(frozen=True)
class Difference:
    """Of one output, the largest of all images."""

    output: str
    largest: float
    judged: float
    """The largest of the share that the tolerance is for."""
    typical: float
    """The median of those that are compared."""


@dataclass(frozen=True)
class Verdict:
    """What the gate saw."""

    differences: tuple[Difference, ...]
    ap: tuple[float, float] | None
    """AP of the original and of the exported one, percent."""
    passed: bool
    reason: str
    """Why not; empty if it passed."""


def judge(
    exported: Engine,
    original: TorchEngine,
    images: Sequence[UInt8[Tensor, "B 3 _ _"]],
    tolerance: Tolerance,
    ap: tuple[float, float] | None = None,
) -> Verdict:
    """Compare an exported detector with the original.

    Queries are paired first, since a two-stage detector may order proposals that score alike
    another way; those that score less than `LEAST_SCORE` are left out, but for the best ten.

    Args:
        exported: In its own runtime.
        original: In torch.
        images: Resized as the detector wants them.
        tolerance: What may differ.
        ap: Of both on a labelled dataset, percent.
    """
    pairs = [_paired(exported(image), original(image), original) for image in images]
    differences = []
    for index, name in enumerate(("scores", "boxes")):
        found = np.concatenate([np.abs(pair[index]).reshape(-1) for pair in pairs])
        quantiles = (float(np.quantile(found, share)) for share in (1, tolerance.share, 0.5))
        differences.append(Difference(name, *quantiles))
    worst = max(differences, key=lambda each: each.judged)
    reason = ""
    if not all(np.isfinite(each.largest) for each in differences):
        reason = f"{worst.output} hold what is not a number"
    elif ap is not None:
        lost = ap[0] - ap[1]
        if lost > tolerance.ap:
            reason = f"AP falls by {lost:.2f} points, more than {tolerance.ap:g}"
    elif worst.judged > tolerance.difference:
        reason = f"{worst.output} differ by {worst.judged:.1e}, more than {tolerance.difference:g}"
    return Verdict(tuple(differences), ap, not reason, reason)


def first_departure(
    run: Callable[[Tensor], Sequence[Any]],
    model: DetectorModel,
    original: TorchEngine,
    probes: Sequence[str],
    images: UInt8[Tensor, "B 3 H W"],
    tolerance: float,
) -> str | None:
    """The first module whose output differs by more than a share of its largest number.

    Args:
        run: The exported detector with probes: logits, boxes, then the outputs of the modules.
        model: The original.
        original: The same as an engine.
        probes: Names of modules, in the order in which an image passes them.
        images: Resized.
        tolerance: The share.
    """
    with torch.inference_mode():
        expected = WholeDetector(original.config, model, probes)(images)[2:]
    for name, found, wanted in zip(probes, run(images)[2:], expected, strict=True):
        scale = max(float(wanted.abs().max()), 1e-6)
        difference = float((torch.as_tensor(np.asarray(found)) - wanted).abs().max()) / scale
        if not difference <= tolerance:
            return f"{name} (by {difference:.1e} of its largest number)"
    return None


def probes_of(model: DetectorModel) -> list[str]:
    """The modules that are compared, in the order in which an image passes them."""
    encoder = [f"encoder.layers.{index}" for index in range(len(model.encoder.layers))]
    decoder = [f"decoder.layers.{index}" for index in range(len(model.decoder.layers))]
    return ["backbone", "neck", *encoder, "queries", *decoder]


def _paired(
    found: Predictions, wanted: Predictions, original: TorchEngine
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Differences of scores [N, K] and of boxes [N, 4] between queries that say the same."""
    scores, boxes = [], []
    for index in range(len(wanted.logits)):
        mine, theirs = (
            _as_one(each.logits[index], each.boxes[index], original) for each in (found, wanted)
        )
        if not np.isfinite(mine).all():
            return np.full((1, 1), np.nan), np.full((1, 4), np.nan)
        told = theirs[:, :-4].max(1)
        told_enough = (told >= LEAST_SCORE) | (told >= np.sort(told)[-min(10, len(told))])
        cost = np.abs(theirs[told_enough, None] - mine[None]).sum(-1)
        rows, columns = linear_sum_assignment(cost)
        difference = theirs[told_enough][rows] - mine[columns]
        scores.append(difference[:, :-4])
        boxes.append(difference[:, -4:])
    return np.concatenate(scores), np.concatenate(boxes)


def _as_one(
    logits: Float[Tensor, "Q K"], boxes: Float[Tensor, "Q 4"], original: TorchEngine
) -> np.ndarray[Any, Any]:
    """Scores and boxes side by side, in float64."""
    if original.config.classification == "sigmoid":
        scores = logits.double().sigmoid()
    else:
        scores = logits.double().softmax(-1)[..., :-1]
    return torch.cat([scores, boxes.double()], -1).cpu().numpy()
