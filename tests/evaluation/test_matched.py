import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saccade.evaluation import CocoEvaluator
from saccade.evaluation.matched import NONE, Detected, Objects, collected, ious, match
from saccade.evaluation.precision_recall import (
    average_precisions,
    best_cut,
    cut_at,
    mean_over_classes,
)

NAMES = ["cow", "unicorn", "dog", "cat"]
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 0, "name": "dog"}, {"id": 17, "name": "cow"}]


def random_evaluator(tmp_path: Path, seed: int, max_detections: int = 100) -> CocoEvaluator:
    """Six images; crowds; hundreds of detections of one class in an image; scores repeat."""
    rng = np.random.default_rng(seed)
    objects: list[dict[str, Any]] = []
    for number in range(90):
        box = [*rng.uniform(0, 300, 2), *rng.uniform(15, 120, 2)]
        crowd = int(rng.random() < 0.2)
        category = int(rng.choice([0, 3, 17]))
        objects.append({"id": number, "image_id": int(rng.integers(1, 6)), "bbox": box})
        objects[-1] |= {"category_id": category, "iscrowd": crowd, "area": 2000}
    images = [{"id": id, "file_name": "a.jpg", "height": 480, "width": 640} for id in range(6)]
    file = tmp_path / f"{seed}.json"
    content = {"images": images, "annotations": objects, "categories": CATEGORIES}
    file.write_text(json.dumps(content))
    evaluator = CocoEvaluator(file, NAMES, max_detections)
    for image in range(6):
        here = [entry for entry in objects if entry["image_id"] == image]
        marked = np.array([entry["bbox"] for entry in here]).reshape(-1, 4)
        chosen = rng.integers(0, max(1, len(here)), 3 * len(here))
        boxes = marked[chosen] + rng.normal(0, 6, (len(chosen), 4))
        labels = [{17: 0, 0: 2, 3: 3}[here[index]["category_id"]] for index in chosen]
        boxes = np.concatenate([boxes, rng.uniform(20, 200, (300, 4))])
        boxes[:, 2:] = boxes[:, :2] + boxes[:, 2:].clip(min=1)
        labels += rng.choice([0, 0, 0, 1, 2, 3], 300).tolist()
        scores = rng.random(len(boxes)).round(2)
        scores[len(chosen) :] *= 0.8
        evaluator.update(
            image, torch.from_numpy(boxes), torch.from_numpy(scores), torch.tensor(labels)
        )
    return evaluator


@pytest.mark.parametrize(("seed", "most"), [(0, 100), (1, 100), (2, 30), (3, 100)])
def test_ap50_is_that_of_coco(tmp_path: Path, seed: int, most: int) -> None:
    evaluator = random_evaluator(tmp_path, seed, most)
    expected = evaluator.compute()
    found, objects = collected(evaluator)
    _, per_class = np.unique(found.categories[found.images == 1], return_counts=True)
    assert per_class.max() > 100
    assert objects.crowds.sum() > 5
    matched = match(found, objects, max_detections=most)
    kept = ~matched.ignored
    assert not kept.all()
    values = average_precisions(
        matched.found.categories[kept], matched.right[kept], objects.count(3)
    )
    assert values == pytest.approx(list(expected.per_class_ap50.values()), abs=1e-6)
    assert mean_over_classes(values) == pytest.approx(expected.AP50, abs=1e-6)
    assert 0.1 < expected.AP50 < 0.9


def test_other_thresholds_are_coco_s_too(tmp_path: Path) -> None:
    evaluator = random_evaluator(tmp_path, 4)
    found, objects = collected(evaluator)
    matched = match(found, objects, 0.75)
    kept = ~matched.ignored
    values = average_precisions(
        matched.found.categories[kept], matched.right[kept], objects.count(3)
    )
    assert mean_over_classes(values) == pytest.approx(evaluator.compute().AP75, abs=1e-6)


def case(
    found: list[tuple[int, float, list[float]]], marked: list[tuple[int, bool, list[float]]]
) -> tuple[Detected, Objects]:
    """In one image: detections (category, score, corners), objects (category, crowd, corners)."""
    detected = Detected(
        np.zeros(len(found), np.int64),
        np.array([each[0] for each in found], np.int64),
        np.array([each[2] for each in found], np.float64).reshape(-1, 4),
        np.array([each[1] for each in found], np.float64),
    )
    objects = Objects(
        np.zeros(len(marked), np.int64),
        np.array([each[0] for each in marked], np.int64),
        np.array([each[2] for each in marked], np.float64).reshape(-1, 4),
        np.array([each[1] for each in marked], bool),
    )
    return detected, objects


SQUARE = [0.0, 0.0, 10.0, 10.0]


def test_the_surest_takes_the_object_and_a_crowd_takes_any_number() -> None:
    inside = [12.0, 12.0, 14.0, 14.0]
    found = [(0, 0.5, SQUARE), (0, 0.9, SQUARE), (0, 0.8, inside), (0, 0.7, inside)]
    marked = [(0, True, [11.0, 11.0, 40.0, 40.0]), (0, False, SQUARE), (1, False, inside)]
    matched = match(*case(found, marked))
    assert matched.found.scores.tolist() == [0.9, 0.8, 0.7, 0.5]
    assert matched.pairs.tolist() == [1, 0, 0, NONE]
    assert matched.right.tolist() == [True, False, False, False]
    assert matched.ignored.tolist() == [False, True, True, False]
    assert matched.objects_found.tolist() == [False, True, False]
    assert matched.above(0.75).pairs.tolist() == [1, 0]
    assert matched.objects.count(2).tolist() == [1, 1]


def test_without_anything_there_is_nothing_to_match() -> None:
    for found, marked in (([], [(0, False, SQUARE)]), ([(0, 0.5, SQUARE)], []), ([], [])):
        matched = match(*case(found, marked))
        assert not matched.right.any()
        assert not matched.ignored.any()
        assert len(matched.pairs) == len(found)
        assert best_cut(matched) is None


def test_iou_of_boxes_and_of_crowds() -> None:
    others = np.array(
        [SQUARE, [5.0, 0.0, 15.0, 10.0], [20.0, 0.0, 30.0, 10.0], [3.0, 3.0, 3.0, 3.0]]
    )
    plain = ious(np.array([SQUARE]), others)
    assert plain[0] == pytest.approx([1, 1 / 3, 0, 0])
    crowds = np.array([False, True, True, True])
    assert ious(np.array([SQUARE]), others, crowds)[0] == pytest.approx([1, 1 / 2, 0, 0])


def test_the_cut_of_best_f1_takes_equal_scores_together() -> None:
    far = [50.0, 50.0, 60.0, 60.0]
    found = [(0, 0.9, SQUARE), (1, 0.6, far), (0, 0.6, far), (0, 0.2, [70.0, 0.0, 80.0, 10.0])]
    marked = [(0, False, SQUARE), (0, False, far)]
    matched = match(*case(found, marked))
    cut = best_cut(matched)
    assert cut is not None
    assert (cut.score, cut.precision, cut.recall) == pytest.approx((0.6, 2 / 3, 1))
    assert cut.f1 == pytest.approx(0.8)
    first, second = cut_at(matched, 0.6, 0), cut_at(matched, 0.6, 1)
    assert (first.precision, first.recall) == (1, 1)
    assert (second.precision, second.recall) == (0, 0)
    assert (cut_at(matched, 0.7, 1).precision, cut_at(matched, 0.95, 0).f1) == (1, 0)
