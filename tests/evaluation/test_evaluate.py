import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from saccade.evaluation import CocoEvaluator, evaluate
from saccade.model import Found
from saccade.structures import Batch, Targets

SIZES = {1: (100, 200), 2: (200, 100)}
FRACTIONS = torch.tensor([[0.5, 0.4, 0.3, 0.6]])


@pytest.fixture
def evaluator(tmp_path: Path) -> CocoEvaluator:
    """Of two images, each with one object where FRACTIONS says."""
    images = [
        {"id": id, "file_name": "a.jpg", "height": h, "width": w} for id, (h, w) in SIZES.items()
    ]
    objects = [
        {"id": id, "image_id": id, "category_id": 1, "bbox": [0.35 * w, 0.1 * h, 0.3 * w, 0.6 * h]}
        for id, (h, w) in SIZES.items()
    ]
    categories = [{"id": 1, "name": "cat"}]
    file = tmp_path / "val.json"
    content = {"images": images, "annotations": objects, "categories": categories}
    file.write_text(json.dumps(content))
    return CocoEvaluator(file, ["dog", "cat"])


def loader(*image_ids: int) -> Iterator[tuple[Batch, list[Targets]]]:
    for image_id in image_ids:
        targets = Targets(torch.zeros(0, 4), torch.zeros(0).long(), (32, 48), image_id)
        yield Batch.from_images([torch.zeros(3, 32, 48)]), [targets]


def predict(batch: Batch) -> list[Found]:
    assert torch.is_inference_mode_enabled()
    one = Found(FRACTIONS, torch.tensor([0.9]), torch.tensor([1]), torch.tensor([0]))
    return [one] * len(batch.sizes)


def test_detections_are_judged_in_the_original_image(evaluator: CocoEvaluator) -> None:
    assert evaluate(predict, loader(1, 2), evaluator).numbers["AP"] == pytest.approx(1)


class OnAppleGpu(Tensor):
    """A stand-in for a tensor on a device without float64."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        if func is Tensor.cpu:
            return result.as_subclass(Tensor)
        if isinstance(result, OnAppleGpu) and result.dtype == torch.float64:
            raise TypeError("the MPS framework doesn't support float64")
        return result


def test_the_device_needs_no_float64(evaluator: CocoEvaluator) -> None:
    def predict_there(batch: Batch) -> list[Found]:
        return [
            Found(*(part.as_subclass(OnAppleGpu) for part in vars(one).values()))
            for one in predict(batch)
        ]

    assert evaluate(predict_there, loader(1, 2), evaluator).AP == pytest.approx(1)


def test_an_evaluator_takes_tensors_of_a_device_without_float64(evaluator: CocoEvaluator) -> None:
    boxes = FRACTIONS.as_subclass(OnAppleGpu)
    evaluator.update(1, boxes, boxes[:, 0], torch.tensor([1]))
    assert evaluator.state()[1][0].dtype == np.float64


def test_an_image_that_is_not_passed_is_missed(evaluator: CocoEvaluator) -> None:
    assert evaluate(predict, loader(2), evaluator).numbers["AR100"] == pytest.approx(0.5)


def test_an_evaluator_serves_again(evaluator: CocoEvaluator) -> None:
    evaluate(predict, loader(1, 2), evaluator)
    assert evaluate(predict, loader(2), evaluator).numbers["AR100"] == pytest.approx(0.5)
