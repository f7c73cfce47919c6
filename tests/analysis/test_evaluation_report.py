import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.analysis.evaluation_plots import draw_confusion, draw_precision_recall
from saccade.analysis.evaluation_report import write_report
from saccade.analysis.evaluation_subject import Subject
from saccade.analysis.study.document import Folded, to_html, to_markdown
from saccade.analysis.worst_images import draw_errors, worst_images
from saccade.data import DetectionDataset
from saccade.evaluation import CocoEvaluator
from saccade.evaluation.errors import decompose
from saccade.evaluation.matched import Detected, Matched, Objects, collected, match
from saccade.inference import Detector
from saccade.model import DetectorModel
from saccade.structures import Sample
from tests.conftest import small_config

SIZES = {1: (90, 120), 2: (2000, 60), 3: (60, 80)}
OBJECTS = [
    {"image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 30]},
    {"image_id": 1, "category_id": 2, "bbox": [60, 10, 40, 40], "area": 1600},
    {"image_id": 2, "category_id": 1, "bbox": [5, 100, 40, 1000]},
    {"image_id": 2, "category_id": 2, "bbox": [0, 1200, 60, 700], "iscrowd": 1},
]


class Files(DetectionDataset):
    """Only knows where its images are."""

    def __init__(self, folder: Path) -> None:
        super().__init__(["cat", "dog"])
        self.folder = folder

    def __len__(self) -> int:
        return len(SIZES)

    def read(self, index: int) -> Sample:
        raise NotImplementedError

    def file_of(self, image_id: int) -> Path | None:
        return self.folder / f"{image_id}.png"


@pytest.fixture
def evaluator(write_coco: Callable[..., object], tmp_path: Path) -> CocoEvaluator:
    """In image 1 a cat is found and a dog taken for a cat; in image 2 the cat is missed."""
    write_coco(SIZES, OBJECTS)
    evaluator = CocoEvaluator(tmp_path / "annotations" / "train.json", ["cat", "dog"])
    boxes = torch.tensor([[10.0, 10, 40, 40], [60, 10, 100, 50], [100, 60, 110, 80]])
    evaluator.update(1, boxes, torch.tensor([0.75, 0.8, 0.05]), torch.tensor([0, 0, 1]))
    evaluator.update(
        2, torch.tensor([[5.0, 1250, 50, 1500]]), torch.tensor([0.7]), torch.tensor([1])
    )
    return evaluator


def subject(tmp_path: Path, weights: str = "somewhere/nano") -> Subject:
    config = small_config("two-stage")
    detector = Detector(config, DetectorModel(config))
    return Subject(detector, weights, Files(tmp_path / "images"), "cells, val", "saccade eval")


def test_the_report_is_one_file_that_says_what_is_wrong(
    evaluator: CocoEvaluator, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("learning_rate: 2e-4\n")
    record = {"epoch": 1, "step": 20, "minutes": 1, "AP": 0.2, "AP50": 0.4, "AP75": 0.1}
    (run / "evaluations.jsonl").write_text(json.dumps(record) + "\n")
    file = tmp_path / "new" / "report.html"
    write_report(file, subject(tmp_path, str(run / "best")), evaluator, evaluator.compute())
    page = file.read_text("utf-8")
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "run/best on cells, val" in page
    assert "3 images, 3 objects of 2 classes and 1 crowd;" in page
    assert "dog found as cat: 1" in page
    assert "2.png: weight 1.0" in page
    assert "learning_rate: 2e-4" in page
    assert "Showing what scores at least 0.75" in page
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert len(titles) == 9
    pictures = re.findall(r'src="data:image/(png|jpeg);base64,([^"]+)"', page)
    assert [kind for kind, _ in pictures].count("jpeg") == 2
    for kind, data in pictures:
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            picture.load()
            assert picture.format == kind.upper()


def test_nothing_found_and_nothing_marked_are_reported_too(
    write_coco: Callable[..., object], tmp_path: Path
) -> None:
    for objects in ([], OBJECTS):
        write_coco(SIZES, objects)
        evaluator = CocoEvaluator(tmp_path / "annotations" / "train.json", ["cat", "dog"])
        file = tmp_path / "report.html"
        write_report(file, subject(tmp_path), evaluator, evaluator.compute())
        assert "What goes wrong" in file.read_text("utf-8")


def test_the_worst_images_come_first_and_show_errors_in_red(
    evaluator: CocoEvaluator, tmp_path: Path
) -> None:
    errors = decompose(match(*collected(evaluator)).above(0.1))
    assert worst_images(errors, 5) == [(1, pytest.approx(1.8)), (2, pytest.approx(1))]
    assert worst_images(errors, 1)[0][0] == 1
    red, green = (0xD1, 0x10, 0x5A), (0x0B, 0x7A, 0x3B)
    picture = draw_errors(errors, ["cat", "dog"], 1, tmp_path / "images" / "1.png")
    halves = np.array_split(picture, 2, 1)
    for colour in (red, green):
        assert all((half == colour).all(-1).any() for half in halves)
    # The long one is shrunk; what lies in the crowd is not drawn, the crowd is brown.
    picture = draw_errors(errors, ["cat", "dog"], 2, tmp_path / "images" / "2.png")
    assert picture.shape[0] < 1000
    found, marked = np.array_split(picture, 2, 1)
    assert not (found == red).all(-1).any()
    assert (marked == (0x5B, 0x3A, 0x1E)).all(-1).any()


def many_classes(count: int) -> Matched:
    boxes = np.tile([0.0, 0.0, 10.0, 10.0], (count, 1))
    classes = np.arange(count)
    objects = Objects(classes, classes, boxes, np.zeros(count, bool))
    return match(Detected(classes, classes, boxes, np.full(count, 0.5)), objects)


def test_plots_of_many_classes_stay_within_the_page(tmp_path: Path) -> None:
    matched = many_classes(80)
    names = [f"class {k}" for k in range(80)]
    draw_precision_recall(matched, names, tmp_path / "curves.png")
    draw_confusion(np.eye(81, dtype=np.int64), names, tmp_path / "confusion.png")
    for name in ("curves", "confusion"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width <= 1200


def test_long_text_is_folded_and_escaped() -> None:
    block = Folded("all of it", "<b> & more")
    assert "<details><summary>all of it</summary><pre>&lt;b&gt; &amp; more" in to_html("t", [block])
    assert "```\n<b> & more\n```" in to_markdown("t", [block])


def test_names_are_no_formulas(tmp_path: Path) -> None:
    names = ["$_$", "5$", "_cat"]
    draw_precision_recall(many_classes(3), names, tmp_path / "curves.png")
    draw_confusion(np.eye(4, dtype=np.int64), names, tmp_path / "confusion.png")
