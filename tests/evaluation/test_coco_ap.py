import contextlib
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from saccade.evaluation import CocoEvaluator, CocoResult

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 0, "name": "dog"}, {"id": 17, "name": "cow"}]
NAMES = ["cow", "unicorn", "dog", "cat"]
NUMBERS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


def write(tmp_path: Path, objects: list[dict[str, Any]], num_images: int = 2) -> Path:
    images = [
        {"id": id, "file_name": f"{id}.jpg", "height": 480, "width": 640}
        for id in range(10, 10 + num_images)
    ]
    numbered = [{"id": number} | entry for number, entry in enumerate(objects, start=1)]
    file = tmp_path / "val.json"
    content = {"images": images, "annotations": numbered, "categories": CATEGORIES}
    file.write_text(json.dumps(content))
    return file


def random_objects(rng: random.Random, num_images: int) -> list[dict[str, Any]]:
    """None in the first image; some crowds; areas below the box's, as masks have."""
    objects = []
    for _ in range(12 * num_images):
        side = rng.choice([20, 60, 200])
        box = [rng.uniform(0, 440), rng.uniform(0, 280), side * rng.uniform(0.5, 1), side]
        objects.append(
            {
                "image_id": rng.randrange(11, 10 + num_images),
                "category_id": rng.choice([0, 3, 17]),
                "bbox": box,
                "area": box[2] * box[3] * rng.uniform(0.5, 1),
                "iscrowd": int(rng.random() < 0.15),
            }
        )
    return objects


def random_detections(
    rng: random.Random, objects: list[dict[str, Any]], num_images: int, false: int
) -> list[dict[str, Any]]:
    """Shifted copies of the objects, some twice, and false ones; scores repeat."""
    found = []
    for entry in rng.choices(objects, k=int(1.3 * len(objects))):
        x, y, w, h = entry["bbox"]
        shift = rng.uniform(0, 0.3)
        box = [x + shift * w, y, w, h * rng.uniform(0.8, 1.2)]
        score = round(rng.random(), 2)
        found.append(
            {key: entry[key] for key in ("image_id", "category_id")} | {"bbox": box, "score": score}
        )
    for _ in range(false):
        box = [rng.uniform(0, 500), rng.uniform(0, 300), rng.uniform(5, 99), rng.uniform(5, 99)]
        found.append(
            {
                "image_id": rng.randrange(10, 10 + num_images),
                "category_id": rng.choice([0, 3, 17]),
                "bbox": box,
                "score": round(rng.random(), 2),
            }
        )
    return found


def add(evaluator: CocoEvaluator, found: list[dict[str, Any]]) -> None:
    label_of = {17: 0, 0: 2, 3: 3}
    for image_id in {entry["image_id"] for entry in found}:
        entries = [entry for entry in found if entry["image_id"] == image_id]
        boxes = torch.tensor([entry["bbox"] for entry in entries], dtype=torch.float64)
        boxes[:, 2:] += boxes[:, :2]
        scores = torch.tensor([entry["score"] for entry in entries], dtype=torch.float64)
        labels = torch.tensor([label_of[entry["category_id"]] for entry in entries])
        evaluator.update(image_id, boxes, scores, labels)


def official(file: Path, found: list[dict[str, Any]], max_detections: int = 100) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", range(5))
def test_numbers_are_those_of_pycocotools(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    objects = random_objects(rng, num_images=8)
    found = random_detections(rng, objects, num_images=8, false=60)
    file = write(tmp_path, objects, num_images=8)
    evaluator = CocoEvaluator(file, NAMES)
    add(evaluator, found)
    result = evaluator.compute()
    expected = official(file, found)
    assert list(result.numbers) == NUMBERS
    assert list(result.numbers.values()) == pytest.approx(expected.stats.tolist(), abs=1e-9)
    assert min(result.numbers.values()) > 0.01
    precision = expected.eval["precision"][..., 0, 2]
    for k, name in enumerate(["dog", "cat", "cow"]):
        assert result.per_class[name] == pytest.approx(precision[:, :, k].mean(), abs=1e-9)
        assert result.per_class_ap50[name] == pytest.approx(precision[0, :, k].mean(), abs=1e-9)


@pytest.mark.parametrize("max_detections", [10, 20])
def test_the_number_of_detections_is_limited(tmp_path: Path, max_detections: int) -> None:
    rng = random.Random(0)
    objects = random_objects(rng, num_images=2)
    found = random_detections(rng, objects, num_images=2, false=200)
    file = write(tmp_path, objects)
    evaluator = CocoEvaluator(file, NAMES, max_detections)
    add(evaluator, found)
    numbers = list(evaluator.compute().numbers.values())
    # pycocotools' first number only knows 100 detections.
    assert numbers[1:] == pytest.approx(official(file, found, max_detections).stats[1:], abs=1e-9)
    unlimited = CocoEvaluator(file, NAMES)
    add(unlimited, found)
    assert unlimited.compute().numbers["AR100"] > numbers[8]


def one_object(side: float, **changes: Any) -> dict[str, Any]:
    return {"image_id": 10, "category_id": 3, "bbox": [0, 0, side, side]} | changes


def perfect(evaluator: CocoEvaluator, side: float) -> CocoResult:
    evaluator.update(
        10, torch.tensor([[0.0, 0.0, side, side]]), torch.tensor([0.9]), torch.tensor([3])
    )
    return evaluator.compute()


def test_a_perfect_detection_scores_one_where_something_is_to_find(tmp_path: Path) -> None:
    result = perfect(CocoEvaluator(write(tmp_path, [one_object(50)]), NAMES), 50)
    assert (result.AP, result.APm, result.ARm, result.AR1) == pytest.approx((1, 1, 1, 1))
    assert (result.APs, result.APl, result.ARs, result.ARl) == (-1, -1, -1, -1)
    assert result.per_class == {"dog": -1, "cat": pytest.approx(1), "cow": -1}


def test_sizes_go_by_the_area_of_the_file(tmp_path: Path) -> None:
    objects = [one_object(50, area=30.0 * 30), one_object(50, category_id=0, area=None)]
    result = perfect(CocoEvaluator(write(tmp_path, objects), NAMES), 50)
    assert (result.APs, result.APm) == pytest.approx((1, 0))


def test_an_object_with_id_zero_counts_as_found(tmp_path: Path) -> None:
    result = perfect(CocoEvaluator(write(tmp_path, [one_object(50, id=0)]), NAMES), 50)
    assert result.numbers["AP"] == pytest.approx(1)


def test_without_detections_everything_is_zero(tmp_path: Path) -> None:
    objects = [one_object(side) for side in (10, 50, 100)]
    evaluator = CocoEvaluator(write(tmp_path, objects), NAMES)
    assert set(evaluator.compute().numbers.values()) == {0}
    nothing = torch.zeros(0)
    evaluator.update(10, torch.zeros(0, 4), nothing, nothing.long())
    assert set(evaluator.compute().numbers.values()) == {0}


def test_without_objects_there_is_nothing_to_find(tmp_path: Path) -> None:
    result = perfect(CocoEvaluator(write(tmp_path, []), NAMES), 50)
    assert set(result.numbers.values()) == {-1}


def test_classes_meet_by_name(tmp_path: Path) -> None:
    objects = [one_object(50), one_object(50, category_id=0), one_object(50, category_id=17)]
    evaluator = CocoEvaluator(write(tmp_path, objects), ["unicorn", "cat", "dog"])
    assert evaluator.undetected == ("cow",)
    boxes = torch.tensor([[0.0, 0.0, 50.0, 50.0]]).repeat(3, 1)
    evaluator.update(10, boxes, torch.tensor([0.9, 0.8, 0.7]), torch.arange(3))
    result = evaluator.compute()
    assert result.per_class == pytest.approx({"dog": 1, "cat": 1, "cow": 0})
    assert result.numbers["AP"] == pytest.approx(2 / 3)
    assert result.undetected == ("cow",)


def test_no_class_in_common_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"categories dog, cat, cow, .* knows Cat, Dog: none in"):
        CocoEvaluator(write(tmp_path, []), ["Cat", "Dog"])


@pytest.mark.parametrize("max_detections", [0, -1])
def test_counting_no_detections_is_refused(tmp_path: Path, max_detections: int) -> None:
    with pytest.raises(ValueError, match=f"max_detections is {max_detections}: expected at least"):
        CocoEvaluator(write(tmp_path, []), NAMES, max_detections)


def test_an_unknown_image_is_refused(tmp_path: Path) -> None:
    evaluator = CocoEvaluator(write(tmp_path, []), NAMES)
    with pytest.raises(ValueError, match=r"image id 12 is not in the annotations, .* 2 images"):
        evaluator.update(12, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())


def test_merging_shares_gives_the_numbers_of_all(tmp_path: Path) -> None:
    rng = random.Random(0)
    objects = random_objects(rng, num_images=4)
    found = random_detections(rng, objects, num_images=4, false=20)
    file = write(tmp_path, objects, num_images=4)
    whole, first, second = (CocoEvaluator(file, NAMES) for _ in range(3))
    add(whole, found)
    add(first, [entry for entry in found if entry["image_id"] <= 12])
    add(second, [entry for entry in found if entry["image_id"] >= 12])
    assert first.compute() != whole.compute()
    first.merge([first.state(), second.state()])
    assert first.compute() == whole.compute() == whole.compute()


def test_knows_the_size_of_the_original_image(tmp_path: Path) -> None:
    assert CocoEvaluator(write(tmp_path, []), NAMES).image_size(11) == (480, 640)
