"""The evaluation of a detector on one split of a dataset."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from lightning.fabric import Fabric
from rich.progress import track

from saccade.data import (
    SplitDataset,
    check_images,
    evaluation_loader,
    evaluation_transform,
    find_split,
    without_broken,
)
from saccade.evaluation import CocoEvaluator, CocoResult, evaluate
from saccade.inference.augmented import AugmentedModel, View
from saccade.inference.predictor import Detector
from saccade.model import Found, select
from saccade.run_config import OnBrokenImage
from saccade.structures import Batch, Sample


class SplitEvaluation:
    """COCO's numbers of a detector on one split of a dataset, as often as it is called."""

    def __init__(
        self,
        detector: Detector,
        data: Path,
        split: str = "val",
        *,
        batch_size: int = 1,
        num_workers: int = 0,
        max_detections: int = 100,
        on_broken_image: OnBrokenImage = "fail",
        fabric: Fabric | None = None,
        progress: bool = False,
        views: Sequence[View] = (),
    ) -> None:
        """Read the annotations, and look at the images.

        Args:
            detector: Its classes are matched to the dataset's categories by name.
            data: The dataset's folder.
            split: Which part of it.
            batch_size: Images of different sizes are padded to one, as in the official evaluation.
            num_workers: Processes that read images.
            max_detections: How many count per image and class.
            on_broken_image: Whether to fail, here where an image's header or end shows it, or to
                evaluate without the broken images; all are then decoded once to find them.
            fabric: Where several processes evaluate together.
            progress: Show a progress bar.
            views: Test-time augmentation: look at every image in these ways, by itself.

        Raises:
            ValueError: If there is no such split, it is unusable, or has no image.
        """
        found = find_split(data, split)
        annotations = found.read()
        if on_broken_image == "fail":
            check_images(found.images, annotations)
        else:
            annotations = without_broken(found.images, annotations)
        if not annotations.images:
            raise ValueError(
                f"{annotations.source} lists no image that can be read: expected at least one to "
                f'evaluate on; is "{split}" the split that you mean?'
            )
        self.split = found
        self.detector = detector
        self.result: CocoResult | None = None
        """Of the last call; `evaluator` holds the detections."""
        self.max_detections = max_detections
        self.progress = progress
        self.evaluator = CocoEvaluator(annotations, detector.class_names, max_detections)
        self.views = tuple(views)
        transform = _unchanged if views else evaluation_transform(detector.config.input)
        self.dataset = SplitDataset(found, transform=transform, annotations=annotations)
        self.loader = evaluation_loader(
            self.dataset,
            batch_size=batch_size,
            num_workers=num_workers,
            rank=fabric.global_rank if fabric else 0,
            world_size=fabric.world_size if fabric else 1,
        )

    def __call__(self) -> CocoResult:
        """Evaluate the detector as it is now."""
        self.detector.model.eval()
        batches = track(self.loader, "evaluating", disable=not self.progress)
        predict, device = self._predict, self.detector.device
        if self.views:
            # Each view is made of the image as it is stored.
            predict, device = self._predict_in_views, torch.device("cpu")
        self.result = evaluate(predict, batches, self.evaluator, device)
        return self.result

    def _predict(self, batch: Batch) -> list[Found]:
        predictions = self.detector.model(batch)
        return select(predictions, self.detector.config.classification, self.max_detections)

    def _predict_in_views(self, batch: Batch) -> list[Found]:
        detector = self.detector
        look = AugmentedModel(detector.model, detector.config, self.views, self.max_detections)
        images = [
            image[:, :height, :width].to(torch.uint8)
            for image, (height, width) in zip(batch.images, batch.sizes, strict=True)
        ]
        return [look(image, detector.device) for image in images]


def _unchanged(sample: Sample) -> Sample:
    """Values from 0 to 255, as numbers that a batch may hold."""
    return replace(sample, image=sample.image.float())
