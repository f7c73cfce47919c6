"""AP of a detector in any runtime."""

from pathlib import Path

import torch

from saccade.boxes import fractions_to_pixels
from saccade.data import check_images, find_split, read_image
from saccade.evaluation import CocoEvaluator
from saccade.inference.engine import Engine, detect


def average_precision(engine: Engine, data: Path, split: str) -> float:
    """COCO's AP in percent on one split of a dataset, image by image.

    Raises:
        ValueError: If there is no such split, it is unusable, or has no image.
    """
    found = find_split(data, split)
    annotations = found.read()
    check_images(found.images, annotations)
    if not annotations.images:
        raise ValueError(f"{annotations.source} lists no image: name another --split.")
    evaluator = CocoEvaluator(annotations, engine.config.class_names)
    with torch.inference_mode():
        for entry in annotations.images:
            (one,) = detect(engine, [read_image(found.images / entry.file_name)])
            boxes = fractions_to_pixels(one.boxes.cpu().double(), entry.size)
            evaluator.update(entry.id, boxes, one.scores.cpu(), one.labels.cpu())
    return 100 * evaluator.compute().AP
