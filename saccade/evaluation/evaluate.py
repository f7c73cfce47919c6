"""Run a detector over a dataset and compute its average precision."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor, distributed

from saccade.boxes import fractions_to_pixels
from saccade.evaluation.coco_ap import CocoEvaluator, CocoResult, State
from saccade.structures import Batch, Targets


class Detected(Protocol):
    """What was found in one image."""

    @property
    def boxes(self) -> Float[Tensor, "N 4"]:
        """``cx, cy, w, h``, fraction of image."""

    @property
    def scores(self) -> Float[Tensor, " N"]:
        """Higher is surer."""

    @property
    def labels(self) -> Int64[Tensor, " N"]:
        """Index into the detector's class names."""


def evaluate(
    predict: Callable[[Batch], Sequence[Detected]],
    loader: Iterable[tuple[Batch, Sequence[Targets]]],
    evaluator: CocoEvaluator,
    device: torch.device | str = "cpu",
) -> CocoResult:
    """Pass every batch to `predict` and return COCO's numbers.

    What `evaluator` collected before is forgotten. Where torch.distributed runs, each
    process passes its share of the images, and all return the numbers of all of them.

    Args:
        predict: The detector in evaluation mode with its postprocessing; one result per image,
            such as `saccade.model.postprocess.select` returns.
        loader: Batches as `saccade.data.evaluation_loader` makes them.
        evaluator: Of the loader's annotation file; it knows the images' original sizes.
        device: Where `predict` wants the batches.
    """
    evaluator.reset()
    with torch.inference_mode():
        for batch, targets in loader:
            found = predict(batch.to(device))
            for one, target in zip(found, targets, strict=True):
                size = evaluator.image_size(target.image_id)
                boxes = fractions_to_pixels(one.boxes.double(), size)
                evaluator.update(target.image_id, boxes, one.scores, one.labels)
    if distributed.is_available() and distributed.is_initialized():
        states: list[State] = [{} for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(states, evaluator.state())
        evaluator.merge(states)
    return evaluator.compute()
