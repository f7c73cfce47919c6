"""The report of a whole run, and the pictures of its evaluations."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade.analysis.run_pictures import EvaluationPictures
from saccade.analysis.run_report import logged_steps, training_blocks
from saccade.analysis.study.document import Paragraph, Picture
from saccade.cli import main
from saccade.data import Split, SplitDataset
from saccade.evaluation import CocoEvaluator
from saccade.run import train
from saccade.run_config import RunConfig
from saccade.split_evaluation import SplitEvaluation
from saccade.training.records import EvaluationRecords
from tests.training.conftest import run

__all__ = ["run"]


def write_session(folder: Path, number: int, steps: range, loss: float) -> None:
    file = folder / "csv" / f"session-{number}" / "metrics.csv"
    file.parent.mkdir(parents=True)
    names = ["step", "loss", "loss_ce", "loss_bbox", "loss_giou", "learning_rate", "AP"]
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        for step in steps:
            writer.writerow(dict.fromkeys(names[1:-1], loss) | {"step": step})
        writer.writerow({"step": steps[-1], "AP": 0.5})


def test_the_steps_of_all_sessions_are_one_curve(tmp_path: Path) -> None:
    write_session(tmp_path, 1, range(10, 60, 10), 2.0)
    # It resumed at step 30, and the tenth session comes after the second.
    write_session(tmp_path, 2, range(40, 70, 10), 1.0)
    write_session(tmp_path, 10, range(70, 90, 10), 0.5)
    rows = logged_steps(tmp_path)
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 50, 60, 70, 80]
    assert [row["loss"] for row in rows] == [2, 2, 2, 1, 1, 1, 0.5, 0.5]


def test_the_best_evaluation_is_named(tmp_path: Path) -> None:
    records = [
        {"epoch": k, "step": 10 * k, "minutes": k, "AP": ap, "AP50": 2 * ap, "AP75": ap}
        for k, ap in enumerate([0.1, 0.3, 0.25], start=1)
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "evaluations.jsonl").write_text(lines)
    for logged in (False, True):
        if logged:
            write_session(tmp_path, 1, range(10, 40, 10), 1.0)
        place = tmp_path / str(logged)
        place.mkdir()
        _, sentence, picture = training_blocks(tmp_path, place)
        assert isinstance(sentence, Paragraph)
        assert sentence.text.startswith("30 steps, 3 epochs, 3.0 minutes of training")
        assert "The best of 3 evaluations" in sentence.text
        assert "after 20 steps: AP 30.0, AP50 60.0; those weights are in best/." in sentence.text
        assert "The last one: AP 25.0, AP50 50.0" in sentence.text
        assert isinstance(picture, Picture)
        assert picture.file.stat().st_size > 10_000


def test_weights_from_elsewhere_have_no_training_to_tell_of(tmp_path: Path) -> None:
    assert training_blocks(tmp_path, tmp_path) == []


def test_a_run_leaves_one_page_about_itself(run: RunConfig, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    plain = train(run, tmp_path / "plain")
    reported = train(replace(run, report=True), folder)
    for name, weights in plain.model.state_dict().items():
        assert torch.equal(weights, reported.model.state_dict()[name]), name
    page = (folder / "report.html").read_text("utf-8")
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles[:3] == ["Average precision", "How it was trained", "Classes"]
    assert f"saccade train --config {folder}/config.yaml" in page
    evaluate = f"saccade eval --weights {folder}/last --data {run.data} --split train"
    assert f"{evaluate} --batch-size 2 --report report.html" in page
    assert "Trained by 1 process in float32, 2 images a step" in page
    assert "num_queries: 12" in page
    assert not (tmp_path / "plain" / "report.html").exists()


def test_a_run_that_was_killed_after_its_last_evaluation_is_reported_too(
    run: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Killed(BaseException):
        pass

    add = EvaluationRecords.add

    def add_and_die(self: EvaluationRecords, *arguments: object) -> None:
        add(self, *arguments)
        raise Killed

    run = replace(run, report=True, num_evaluations=1)
    with monkeypatch.context() as patch:
        patch.setattr(EvaluationRecords, "add", add_and_die)
        with pytest.raises(Killed):
            train(run, tmp_path / "run")
    assert not (tmp_path / "run" / "report.html").exists()
    assert main(["train", "--resume", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert f"How it went, and what goes wrong: {tmp_path / 'run' / 'report.html'}" in said
    assert "The best of 1 evaluations" in (tmp_path / "run" / "report.html").read_text("utf-8")
    assert len(EvaluationRecords(tmp_path / "run" / "evaluations.jsonl").read()) == 1


SIZES = dict.fromkeys(range(1, 8), (48, 64))
OBJECTS = [{"image_id": 1, "category_id": 1, "bbox": [4, 8, 20, 24], "area": 480, "iscrowd": 0}]


@pytest.fixture
def drawn(write_coco: Callable[..., Split]) -> tuple[SplitDataset, CocoEvaluator]:
    split = write_coco(SIZES, OBJECTS)
    evaluator = CocoEvaluator(split.read(), ["cat", "dog"])
    boxes = torch.tensor([[4.0, 8.0, 24.0, 32.0], [30.0, 8.0, 50.0, 32.0]])
    evaluator.update(1, boxes, torch.tensor([0.9, 0.1]), torch.tensor([0, 1]))
    return SplitDataset(split), evaluator


def test_pictures_are_of_the_same_images_each_time(
    drawn: tuple[SplitDataset, CocoEvaluator], tmp_path: Path
) -> None:
    draw = EvaluationPictures(*drawn, count=3)
    first, second = draw(), draw()
    assert list(first) == ["1", "3", "5"]
    assert all(np.array_equal(first[name], second[name]) for name in first)
    draw.save(first, tmp_path / "pictures", 120)
    names = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.glob("pictures/*/*"))
    assert names == [f"pictures/{name}/step-0000120.jpg" for name in ("1", "3", "5")]


def test_only_what_is_sure_is_drawn(drawn: tuple[SplitDataset, CocoEvaluator]) -> None:
    picture = EvaluationPictures(*drawn, count=1)()["1"]
    found, marked = np.array_split(picture, 2, 1)
    cat, dog = (0xD1, 0x10, 0x5A), (0x1F, 0x4F, 0xD8)
    assert (found == cat).all(-1).any()
    assert (marked == cat).all(-1).any()
    assert not (picture == dog).all(-1).any()


@pytest.mark.parametrize(("count", "pictures"), [(0, 0), (100, 7)])
def test_there_are_as_many_pictures_as_images(
    count: int, pictures: int, drawn: tuple[SplitDataset, CocoEvaluator]
) -> None:
    assert len(EvaluationPictures(*drawn, count)()) == pictures


def test_an_evaluation_of_a_dense_split_counts_as_many_as_the_run_says(
    run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    original = SplitEvaluation.__call__

    def watch(self: SplitEvaluation) -> object:
        result = original(self)
        counted.append((result.max_detections, len(self.evaluator.detections().scores)))
        return result

    monkeypatch.setattr(SplitEvaluation, "__call__", watch)
    train(replace(run, epochs=1, max_detections=17), tmp_path / "run")
    assert counted == [(17, 4 * 17)]
    with pytest.raises(ValueError, match="max_detections is 0"):
        replace(run, max_detections=0)


def test_nothing_to_find_is_no_percentage(tmp_path: Path) -> None:
    record = {"epoch": 1, "step": 10, "minutes": 1} | dict.fromkeys(("AP", "AP50", "AP75"), -1.0)
    (tmp_path / "evaluations.jsonl").write_text(json.dumps(record) + "\n")
    _, sentence, _ = training_blocks(tmp_path, tmp_path)
    assert isinstance(sentence, Paragraph)
    assert "after 10 steps: AP -, AP50 -; those" in sentence.text
