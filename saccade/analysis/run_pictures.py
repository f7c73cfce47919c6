"""What a run draws at every evaluation: a few images, what was found beside what is marked."""

from pathlib import Path

import numpy as np
from torchvision.transforms.v2 import functional as tv

from saccade.analysis.draw import Pixels, draw_beside_truth, save_image
from saccade.data import DetectionDataset
from saccade.data.images import read_image
from saccade.evaluation import CocoEvaluator
from saccade.evaluation.matched import Detected, Objects, collected
from saccade.inference.detections import supervision

SHOWN_ABOVE = 0.3
"""Score of what is drawn, as `Detector.predict` has it."""
LARGEST_SIDE = 800
"""Larger images are shrunk, in pixels."""


class EvaluationPictures:
    """The same images at every evaluation, spread evenly over the split."""

    def __init__(self, dataset: DetectionDataset, evaluator: CocoEvaluator, count: int) -> None:
        """Draw nothing yet.

        Args:
            dataset: Where the images are.
            evaluator: Asked, whenever pictures are drawn, for what it has collected.
            count: How many; all of them where the split has fewer.
        """
        self.evaluator = evaluator
        images = evaluator.annotations.images
        count = min(count, len(images))
        chosen = [images[turn * len(images) // count] for turn in range(count)]
        files = [(entry.id, dataset.file_of(entry.id)) for entry in chosen]
        self.files = {id: file for id, file in files if file is not None}

    def __call__(self) -> dict[str, Pixels]:
        """Pictures by name, [H, W, 3] RGB.

        Raises:
            OSError: If a file is missing.
            ValueError: If it is broken.
        """
        if not self.files:
            return {}
        found, objects = collected(self.evaluator)
        pictures: dict[str, Pixels] = {}
        for id, file in self.files.items():
            name = file.stem
            pictures[f"{name}-{id}" if name in pictures else name] = self._draw(
                id, file, found, objects
            )
        return pictures

    def save(self, pictures: dict[str, Pixels], folder: Path, step: int) -> None:
        """Write them as ``NAME/step-0000120.jpg``, so that one image's pictures stand together."""
        for name, pixels in pictures.items():
            file = folder / name / f"step-{step:07d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            save_image(pixels, file)

    def _draw(self, id: int, file: Path, found: Detected, objects: Objects) -> Pixels:
        names = np.array(list(self.evaluator.annotations.categories.values()))
        pixels = read_image(file)
        scale = min(1.0, LARGEST_SIDE / max(pixels.shape[1:]))
        if scale < 1:
            size = [max(1, round(side * scale)) for side in pixels.shape[1:]]
            pixels = tv.resize(pixels, size, antialias=True)
        found = found[(found.images == id) & (found.scores >= SHOWN_ABOVE)]
        marked = np.flatnonzero(objects.images == id)
        sv = supervision()
        return draw_beside_truth(
            pixels,
            sv.Detections(
                xyxy=found.boxes * scale,
                confidence=found.scores,
                class_id=found.categories,
                data={"class_name": names[found.categories]},
            ),
            sv.Detections(
                xyxy=objects.boxes[marked] * scale,
                class_id=objects.categories[marked],
                data={"class_name": names[objects.categories[marked]]},
            ),
        )
