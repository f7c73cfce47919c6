"""COCO average precision of boxes, the official numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from faster_coco_eval import COCO, COCOeval_faster
from jaxtyping import Float, Int64
from torch import Tensor

from saccade.data.annotations import Annotations, read_annotations

State = dict[int, tuple[Tensor, Tensor, Tensor]]
"""Boxes (corners in pixels), scores and labels by image id, on the CPU."""


@dataclass(frozen=True)
class CocoResult:
    """COCO's twelve numbers in [0, 1], named as in papers; -1 where there is nothing to find.

    AP is the mean over IoU 0.50, 0.55, ... 0.95; s, m and l are objects below 32 x 32 pixels,
    below 96 x 96 and above. AR1, AR10 and AR100 allow that many detections per image and class;
    AR100 and everything else count up to the evaluator's `max_detections`.
    """

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    AR1: float
    AR10: float
    AR100: float
    ARs: float
    ARm: float
    ARl: float
    per_class: dict[str, float] = field(default_factory=dict)
    """AP by category, in the order of the annotations' ids."""
    per_class_ap50: dict[str, float] = field(default_factory=dict)
    undetected: tuple[str, ...] = ()
    """Categories of the split that the detector does not know; they count with no detections."""

    @property
    def numbers(self) -> dict[str, float]:
        """The twelve numbers by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, float)}


class CocoEvaluator:
    """Collects detections of the images of one split and computes COCO's numbers.

    Categories are matched to the detector's classes by name. Detections of a class that the split
    lacks are dropped; a category that the detector lacks counts with no detections. Every image
    of the split counts, also those never passed to `update`.
    """

    def __init__(
        self, annotations: Path | Annotations, class_names: Sequence[str], max_detections: int = 100
    ) -> None:
        """Read the ground truth.

        Args:
            annotations: Of the split, in whatever format they were; or a COCO annotation file, see
                `saccade.data.annotations.read_annotations`.
            class_names: The detector's, in the order of its labels.
            max_detections: How many count per image and class, the best-scored first.

        Raises:
            OSError: If the file cannot be opened.
            ValueError: If the file is unusable or shares no class with the detector, or
                `max_detections` is below 1.
        """
        if max_detections < 1:
            raise ValueError(
                f"max_detections is {max_detections}: expected at least 1; COCO counts 100."
            )
        truth = read_annotations(annotations) if isinstance(annotations, Path) else annotations
        ids = {name: id for id, name in truth.categories.items()}
        self._truth = truth
        self._sizes = {image.id: image.size for image in truth.images}
        self._category_ids = [ids.get(name) for name in class_names]
        self._found: State = {}
        self.max_detections = max_detections
        self.undetected = tuple(name for name in ids if name not in class_names)
        """The split's categories that the detector does not know."""
        if len(self.undetected) == len(ids):
            raise ValueError(
                f"{truth.source} has the categories {', '.join(ids) or '(none)'}, but the detector "
                f"knows {', '.join(class_names)}: none in common; evaluate on a file whose "
                "categories have the detector's names."
            )

    @property
    def annotations(self) -> Annotations:
        """The ground truth."""
        return self._truth

    def image_size(self, image_id: int) -> tuple[int, int]:
        """(height, width) of an image as the annotations state it, in pixels."""
        return self._sizes[image_id]

    def update(
        self,
        image_id: int,
        boxes: Float[Tensor, "N 4"],
        scores: Float[Tensor, " N"],
        labels: Int64[Tensor, " N"],
    ) -> None:
        """Add one image's detections; a second call for an image replaces the first.

        Args:
            image_id: The annotations'.
            boxes: ``x0, y0, x1, y1`` in pixels of the original image.
            scores: Higher is surer.
            labels: Index into the detector's class names.

        Raises:
            ValueError: If the annotations have no such image.
        """
        if image_id not in self._sizes:
            raise ValueError(
                f"image id {image_id} is not in the annotations, which list "
                f"{len(self._sizes)} images; evaluate on the images that they describe."
            )
        self._found[image_id] = (
            # To the CPU first: Apple's GPUs have no float64.
            boxes.detach().cpu().double(),
            scores.detach().cpu().double(),
            labels.cpu(),
        )

    def reset(self) -> None:
        """Forget everything collected."""
        self._found = {}

    def state(self) -> State:
        """Everything collected, to be sent to another process and merged there."""
        return self._found

    def merge(self, states: Iterable[State]) -> None:
        """Add what other processes collected; an image that several saw counts once."""
        for state in states:
            self._found |= state

    def compute(self) -> CocoResult:
        """COCO's numbers of everything collected so far."""
        truth = _ground_truth(self._truth)
        evaluation = COCOeval_faster(truth, _index(truth, self.detections()), iouType="bbox")
        evaluation.params.maxDets = [1, 10, self.max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
        counts = evaluation.params.maxDets
        last = counts.index(self.max_detections)
        # Axes: IoU threshold, recall, category, area (all, small, medium, large), detections.
        precision = np.asarray(evaluation.eval["precision"])[..., last]
        # Axes: the same without recall.
        recall = np.asarray(evaluation.eval["recall"])
        names = self._truth.categories.values()
        return CocoResult(
            AP=_mean(precision[..., 0]),
            AP50=_mean(precision[0, ..., 0]),
            AP75=_mean(precision[5, ..., 0]),
            APs=_mean(precision[..., 1]),
            APm=_mean(precision[..., 2]),
            APl=_mean(precision[..., 3]),
            AR1=_mean(recall[:, :, 0, counts.index(1)]),
            AR10=_mean(recall[:, :, 0, counts.index(10)]),
            AR100=_mean(recall[:, :, 0, last]),
            ARs=_mean(recall[:, :, 1, last]),
            ARm=_mean(recall[:, :, 2, last]),
            ARl=_mean(recall[:, :, 3, last]),
            per_class={name: _mean(precision[:, :, k, 0]) for k, name in enumerate(names)},
            per_class_ap50={name: _mean(precision[0, :, k, 0]) for k, name in enumerate(names)},
            undetected=self.undetected,
        )

    def detections(self) -> list[dict[str, Any]]:
        """What counts of everything collected, as COCO's result files have it, by rising image id.

        Boxes are ``x, y, width, height`` in pixels.
        """
        detections = []
        for image_id, (boxes, scores, labels) in sorted(self._found.items()):
            corners_and_scores = torch.cat([boxes, scores[:, None]], 1).tolist()
            for (x0, y0, x1, y1, score), label in zip(
                corners_and_scores, labels.tolist(), strict=True
            ):
                if (category_id := self._category_ids[label]) is None:
                    continue
                detections.append(
                    {
                        "image_id": image_id,
                        "category_id": category_id,
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "area": (x1 - x0) * (y1 - y0),
                        "iscrowd": 0,
                        "score": score,
                    }
                )
        return detections


def _ground_truth(annotations: Annotations) -> Any:
    truth = COCO()
    truth.dataset = {
        "images": [
            {"id": image.id, "height": image.size[0], "width": image.size[1]}
            for image in annotations.images
        ],
        "categories": [{"id": id, "name": name} for id, name in annotations.categories.items()],
    }
    return _index(
        truth,
        [
            {
                "image_id": entry.image_id,
                "category_id": entry.category_id,
                "bbox": list(entry.box),
                "area": entry.area,
                "iscrowd": int(entry.crowd),
            }
            for entry in annotations.objects
        ],
    )


def _index(truth: Any, entries: list[dict[str, Any]]) -> Any:
    """The `entries` as an indexed COCO object over the images and categories of `truth`.

    They are numbered from 1: COCO's matching takes the id 0 for "not matched".
    """
    indexed = COCO()
    indexed.dataset = truth.dataset | {
        "annotations": [entry | {"id": number} for number, entry in enumerate(entries, start=1)]
    }
    indexed.createIndex()
    return indexed


def _mean(values: npt.NDArray[np.float64]) -> float:
    """The mean of what is defined: COCO marks by -1 where a category has no object."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0
