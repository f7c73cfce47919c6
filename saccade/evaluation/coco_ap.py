"""COCO average precision of boxes, the official numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saccade.data.annotations import Annotations, read_annotations
from saccade.evaluation.coco_engine import Accumulated, Detections, accumulate

State = dict[int, tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]]
"""By image id: [N, 5] boxes (``x, y, width, height`` in pixels) with their scores, and [N] labels;
44 bytes per detection."""


@dataclass(frozen=True)
class CocoResult:
    """COCO's twelve numbers in [0, 1], named as in papers; -1 where there is nothing to find.

    AP is the mean over IoU 0.50, 0.55, ... 0.95; s, m and l are objects below 32 x 32 pixels,
    below 96 x 96 and above. AR1, AR10 and AR100 allow that many detections per image and class;
    AR100 and everything else count up to `max_detections`, COCO's 100 unless told otherwise.
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
    max_detections: int = 100

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
        order = {name: place for place, name in enumerate(ids)}
        self._categories = np.array([order.get(name, -1) for name in class_names], np.int64)
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
        # To the CPU first: Apple's GPUs have no float64.
        corners = boxes.detach().cpu().double()
        sides = corners[:, 2:] - corners[:, :2]
        rows = torch.cat([corners[:, :2], sides, scores.detach().cpu().double()[:, None]], 1)
        self._found[image_id] = (rows.numpy(), labels.cpu().numpy().astype(np.int32))

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
        curves = self.accumulate()
        last = curves.counts.index(self.max_detections)
        precision, recall = curves.precision[..., last], curves.recall
        names = self._truth.categories.values()
        return CocoResult(
            AP=_mean(precision[..., 0]),
            AP50=_mean(precision[0, ..., 0]),
            AP75=_mean(precision[5, ..., 0]),
            APs=_mean(precision[..., 1]),
            APm=_mean(precision[..., 2]),
            APl=_mean(precision[..., 3]),
            AR1=_mean(recall[:, :, 0, curves.counts.index(1)]),
            AR10=_mean(recall[:, :, 0, curves.counts.index(10)]),
            AR100=_mean(recall[:, :, 0, last]),
            ARs=_mean(recall[:, :, 1, last]),
            ARm=_mean(recall[:, :, 2, last]),
            ARl=_mean(recall[:, :, 3, last]),
            per_class={name: _mean(precision[:, :, k, 0]) for k, name in enumerate(names)},
            per_class_ap50={name: _mean(precision[0, :, k, 0]) for k, name in enumerate(names)},
            undetected=self.undetected,
            max_detections=self.max_detections,
        )

    def accumulate(self) -> Accumulated:
        """COCO's arrays of everything collected so far, for 1, 10 and `max_detections`."""
        return accumulate(self._truth, self.detections(), {1, 10, self.max_detections})

    def detections(self) -> Detections:
        """What counts of everything collected, by rising image id."""
        place = {image.id: index for index, image in enumerate(self._truth.images)}
        found = sorted(self._found.items())
        counts = [len(labels) for _, (_, labels) in found]
        images = np.repeat(np.array([place[id] for id, _ in found], np.int64), counts)
        rows = np.concatenate([np.zeros((0, 5)), *(rows for _, (rows, _) in found)])
        labels = np.concatenate([np.zeros(0, np.int32), *(labels for _, (_, labels) in found)])
        categories = self._categories[labels]
        known = categories >= 0
        return Detections(images[known], categories[known], rows[known, :4], rows[known, 4])


def _mean(values: npt.NDArray[np.float64]) -> float:
    """The mean of what is defined: COCO marks by -1 where a category has no object."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0
