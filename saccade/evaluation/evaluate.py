"""Run a detector over a dataset and compute its average precision."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import distributed

from saccade.boxes import fractions_to_pixels
from saccade.evaluation.coco_ap import CocoEvaluator, CocoResult
from saccade.evaluation.gather import compute_together
from saccade.model import Found
from saccade.structures import Batch, Targets


def evaluate(
    predict: Callable[[Batch], Sequence[Found]],
    loader: Iterable[tuple[Batch, Sequence[Targets]]],
    evaluator: CocoEvaluator,
    device: torch.device | str = "cpu",
) -> CocoResult:
    """Pass every batch to `predict` and return COCO's numbers.

    What `evaluator` collected before is forgotten. Where torch.distributed runs, each
    process passes its share of the images, and all return the numbers of all of them; the first
    one's `evaluator` then holds all detections.

    Args:
        predict: The detector in evaluation mode with its postprocessing; one result per image,
            as `saccade.model.select` returns.
        loader: Batches as `saccade.data.evaluation_loader` makes them.
        evaluator: Of the loader's annotations; it knows the images' original sizes.
        device: Where `predict` wants the batches.
    """
    evaluator.reset()
    with torch.inference_mode():
        for batch, targets in loader:
            found = predict(batch.to(device))
            for one, target in zip(found, targets, strict=True):
                size = evaluator.image_size(target.image_id)
                # To the CPU first: Apple's GPUs have no float64.
                boxes = fractions_to_pixels(one.boxes.cpu().double(), size)
                evaluator.update(target.image_id, boxes, one.scores, one.labels)
    if distributed.is_available() and distributed.is_initialized():
        return compute_together(evaluator, device)
    return evaluator.compute()
