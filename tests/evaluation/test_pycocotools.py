"""On whatever data, the numbers and the arrays behind them are those of pycocotools."""

import contextlib
import io
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from saccade.data.annotations import Annotations, ImageEntry, ObjectEntry
from saccade.evaluation import CocoEvaluator, coco_engine

IMAGE_IDS = [-7, 0, 1, 2, 3, 9, 10, 399, 10**6, 2**31 + 5, 2**53 + 1, 2**63 - 1]
CATEGORY_IDS = [-1, 0, 1, 2, 17, 90, 10**6, 2**62]
SIDES = [0, 3, 8, 32, 33, 96, 97, 150]
"""On both sides of COCO's limits of small and medium objects."""


@dataclass
class Case:
    """A dataset, and what was found: (image id, label) with x, y, width, height and score."""

    truth: Annotations
    names: list[str]
    found: dict[int, list[tuple[list[float], float, int]]]


def random_case(seed: int) -> Case:
    """Crowds, ties, empty images, classes without objects, boxes without area, areas of masks."""
    rng = random.Random(seed)
    on_grid = rng.random() < 0.5
    ids = sorted(rng.sample(IMAGE_IDS, rng.randint(1, 8)))
    categories = {id: f"class {id}" for id in sorted(rng.sample(CATEGORY_IDS, rng.randint(1, 4)))}
    names = list(categories.values())
    rng.shuffle(names)
    if rng.random() < 0.3:
        names.insert(0, "unicorn")

    def box() -> list[float]:
        x, y = (rng.randrange(200) if on_grid else rng.uniform(0, 200) for _ in range(2))
        scale = 1.0 if on_grid else rng.uniform(0.9, 1.1)
        return [float(x), float(y), rng.choice(SIDES) * scale, float(rng.choice(SIDES))]

    objects = []
    for _ in range(rng.choice([0, 3, 20, 60])):
        place = box()
        areas = [place[2] * place[3], 32.0**2, 96.0**2, rng.uniform(0, 20_000), 0.0]
        crowd = rng.random() < 0.2
        entry = (rng.choice(ids), rng.choice(list(categories)), tuple(place), rng.choice(areas))
        objects.append(ObjectEntry(*entry, crowd))
    found: dict[int, list[tuple[list[float], float, int]]] = {}
    for _ in range(rng.choice([0, 5, 60, 300, 900])):
        image, place, name = rng.choice(ids), box(), rng.choice(names)
        if objects and rng.random() < 0.6:
            entry = rng.choice(objects)
            x, y, width, height = entry.box
            shift = rng.choice([0.0, 0.0, 1.0, 0.05 * width, 0.2 * width])
            place = [x + shift, y, width, height * rng.choice([1.0, 1.0, 0.75, 1.1])]
            image = entry.image_id
            if rng.random() < 0.9:
                name = categories[entry.category_id]
        score = round(rng.random(), rng.choice([1, 6]))
        found.setdefault(image, []).append((place, score, names.index(name)))
    images = tuple(ImageEntry(id, f"{id}.jpg", (400, 400)) for id in ids)
    return Case(Annotations(images, tuple(objects), categories, Path("random")), names, found)


def collect(case: Case, max_detections: int = 100) -> CocoEvaluator:
    evaluator = CocoEvaluator(case.truth, case.names, max_detections)
    for image, entries in case.found.items():
        boxes = torch.tensor([place for place, _, _ in entries], dtype=torch.float64)
        boxes[:, 2:] += boxes[:, :2]
        scores = torch.tensor([score for _, score, _ in entries], dtype=torch.float64)
        labels = torch.tensor([label for _, _, label in entries])
        evaluator.update(image, boxes, scores, labels)
    return evaluator


def official(case: Case, evaluator: CocoEvaluator, limits: list[int]) -> Any:
    """pycocotools' evaluation of what the evaluator holds, boxes bit by bit the same."""
    truth, entries = COCO(), evaluator.detections()
    truth.dataset = {
        "images": [{"id": image.id, "height": 400, "width": 400} for image in case.truth.images],
        "categories": [{"id": id, "name": name} for id, name in case.truth.categories.items()],
        "annotations": [
            {
                "id": number,
                "image_id": entry.image_id,
                "category_id": entry.category_id,
                "bbox": list(entry.box),
                "area": entry.area,
                "iscrowd": int(entry.crowd),
            }
            for number, entry in enumerate(case.truth.objects, start=1)
        ],
    }
    categories = list(case.truth.categories)
    results = [
        {
            "image_id": case.truth.images[image].id,
            "category_id": categories[category],
            "bbox": box,
            "score": score,
        }
        for image, category, box, score in zip(
            entries.images.tolist(),
            entries.categories.tolist(),
            entries.boxes.tolist(),
            entries.scores.tolist(),
            strict=True,
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        # It cannot load an empty list.
        found = truth.loadRes(results) if results else COCO()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.maxDets = limits
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def assert_same(seed: int) -> None:
    case = random_case(seed)
    largest = random.Random(-seed).choice([10, 20, 100, 100, 500])
    limits = sorted({1, 10, largest})
    evaluator = collect(case, largest)
    curves, result = evaluator.accumulate(), evaluator.compute()
    expected = official(case, evaluator, [1, 10, largest])
    assert curves.counts == tuple(limits)
    for name in ("precision", "recall"):
        # Where the largest is 10, theirs has it twice.
        theirs = expected.eval[name][..., [expected.params.maxDets.index(each) for each in limits]]
        assert getattr(curves, name).shape == theirs.shape
        assert np.abs(getattr(curves, name) - theirs).max(initial=0) <= 1e-12, (seed, name)
    numbers = list(result.numbers.values())
    assert len(numbers) == 12
    # pycocotools' first number only knows 100 detections.
    whole = expected.eval["precision"][..., 0, -1]
    first = whole[whole > -1].mean() if (whole > -1).any() else -1.0
    assert np.abs(np.array(numbers) - [first, *expected.stats[1:]]).max() <= 1e-12, seed


@pytest.mark.parametrize("seed", range(25))
def test_random_data_give_pycocotools_numbers(seed: int) -> None:
    assert_same(seed)


@pytest.mark.slow
def test_much_random_data_give_pycocotools_numbers() -> None:
    for seed in range(1000, 2000):
        assert_same(seed)


def test_random_data_hold_what_is_hard() -> None:
    """A comparison is worth what the cases hold."""
    cases = [random_case(seed) for seed in range(25)]
    objects = [entry for case in cases for entry in case.truth.objects]
    assert any(entry.crowd for entry in objects)
    assert any(0 in entry.box[2:] for entry in objects)
    assert any(entry.area != entry.box[2] * entry.box[3] for entry in objects)
    assert any(len(entries) > 100 for case in cases for entries in case.found.values())
    assert any(len(case.found) < len(case.truth.images) for case in cases)
    assert any(not case.truth.objects for case in cases)
    for_each = [({entry.category_id for entry in case.truth.objects}, case) for case in cases]
    assert any(used and len(used) < len(case.truth.categories) for used, case in for_each)
    results = [collect(case).compute() for case in cases]
    assert sum(0.01 < result.AP < 0.99 for result in results) > 8


def test_groups_of_categories_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = collect(random_case(5))
    whole = evaluator.accumulate()
    assert whole.precision.shape[2] > 1
    given = []
    original = coco_engine.COCOeval_faster

    def watch(*arguments: Any) -> Any:
        given.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(coco_engine, "COCOeval_faster", watch)
    monkeypatch.setattr(coco_engine, "MOST_AT_ONCE", 1)
    parts = evaluator.accumulate()
    assert len(given) > 1
    assert np.array_equal(parts.precision, whole.precision)
    assert np.array_equal(parts.recall, whole.recall)


def test_memory_grows_by_bytes_per_detection_and_not_by_pixels() -> None:
    """Detections are views of the batch's outputs; what is kept is not."""
    images = tuple(ImageEntry(id, f"{id}.jpg", (4000, 6000)) for id in range(50))
    truth = Annotations(images, (), {1: "cat"}, Path("many"))
    evaluator = CocoEvaluator(truth, ["cat"])
    for image in images:
        outputs = torch.rand(1, 100_000, 6)
        found = outputs[0, :200]
        evaluator.update(image.id, found[:, :4], found[:, 4], torch.zeros(200).long())
    kept = [array for arrays in evaluator.state().values() for array in arrays]
    assert sum(array.nbytes for array in kept) == 50 * 200 * 44
    assert all(array.base is None or array.base.nbytes == array.nbytes for array in kept)
