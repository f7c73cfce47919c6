from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade import Detector
from saccade.data import Annotations, SplitDataset, find_split
from saccade.evaluation import CocoEvaluator, CocoResult
from saccade.model import DetectorModel
from saccade.split_evaluation import SplitEvaluation
from tests.conftest import small_config
from tests.data.formats import (
    Marked,
    Pictures,
    write_coco_format,
    write_picture,
    write_voc_format,
    write_yolo_format,
)

Write = Callable[[Path, Pictures, str], Path]
WRITERS = {"coco": write_coco_format, "yolo": write_yolo_format, "voc": write_voc_format}

PICTURES: Pictures = {
    "b": ((64, 128), [Marked("zebra", (0, 0, 128, 64)), Marked("bird", (3, 5, 40, 41))]),
    "a": ((32, 32), [Marked("bird", (1, 2, 30, 31))]),
    "c": ((64, 64), []),
    "d": ((64, 64), []),
    "e": ((128, 128), [Marked("zebra", (10, 20, 110, 121)), Marked("zebra", (5, 5, 9, 13))]),
}


def evaluated(annotations: Annotations, names: tuple[str, ...]) -> CocoResult:
    """COCO's numbers of boxes that are a little wrong, the same ones for every format."""
    evaluator = CocoEvaluator(annotations, names)
    for image in annotations.images:
        generator = np.random.default_rng(list(Path(image.file_name).stem.encode()))
        truth = [entry for entry in annotations.objects if entry.image_id == image.id]
        rows = [(*entry.box[:2], *np.add(entry.box[:2], entry.box[2:])) for entry in truth]
        boxes = np.repeat(np.array(rows).reshape(-1, 4), 3, axis=0)
        boxes += generator.uniform(-3, 3, boxes.shape)
        labels = [names.index(annotations.categories[entry.category_id]) for entry in truth]
        evaluator.update(
            image.id,
            torch.from_numpy(boxes),
            torch.from_numpy(generator.uniform(size=len(boxes))),
            torch.tensor(labels, dtype=torch.int64).repeat_interleave(3),
        )
    return evaluator.compute()


@pytest.mark.parametrize("form", ["yolo", "voc"])
def test_every_format_gives_the_same_samples_and_numbers(form: str, tmp_path: Path) -> None:
    ours = find_split(WRITERS[form](tmp_path / form, PICTURES, "val"), "val")
    coco = find_split(write_coco_format(tmp_path / "coco", PICTURES, "val"), "val")
    names = ("bird", "cow", "zebra")
    for sample, expected in zip(SplitDataset(ours, names), SplitDataset(coco, names), strict=True):
        assert torch.equal(sample.image, expected.image)
        assert torch.equal(sample.targets.boxes, expected.targets.boxes)
        assert torch.equal(sample.targets.labels, expected.targets.labels)
        assert sample.targets.size == expected.targets.size
        assert sample.file is not None
        assert expected.file is not None
        assert sample.file.name == expected.file.name
    result = evaluated(ours.read(), names)
    expected_result = evaluated(coco.read(), names)
    assert result.numbers == expected_result.numbers
    assert 0.05 < result.AP < 0.95
    assert sorted(result.per_class.items()) == sorted(expected_result.per_class.items())


def test_difficult_objects_of_voc_count_as_crowds_of_coco(tmp_path: Path) -> None:
    bird, zebra = Marked("bird", (3, 5, 40, 41)), Marked("zebra", (10, 2, 120, 60), difficult=True)
    pictures: Pictures = {"a": ((64, 128), [bird, zebra]), "b": ((64, 128), [bird])}
    splits = [
        find_split(write(tmp_path / name, pictures), "train")
        for name, write in (("coco", write_coco_format), ("voc", write_voc_format))
    ]
    coco, voc = (evaluated(split.read(), ("bird", "zebra")) for split in splits)
    assert voc.numbers == coco.numbers
    assert voc.per_class["zebra"] == -1
    assert SplitDataset(splits[1])[0].targets.labels.tolist() == [0]


def test_an_evaluation_is_the_same_in_every_format_and_after_saving(tmp_path: Path) -> None:
    """Classes are matched by name: the files number them from 0, from 1, and with gaps."""
    torch.manual_seed(0)
    config = small_config("detr")
    config = replace(
        config,
        class_names=("bird", "zebra"),
        input=replace(config.input, short_side=64, max_side=64),
    )
    detector = Detector(config, DetectorModel(config))
    detector.save_pretrained(tmp_path / "weights")
    loaded = Detector.from_pretrained(tmp_path / "weights")
    pictures: Pictures = {"empty": ((64, 64), [])}
    for stem, size in (("a", (128, 128)), ("b", (128, 256))):
        write_picture(tmp_path / f"{stem}.png", size)
        found = detector.predict(tmp_path / f"{stem}.png", threshold=0, top_k=8)
        corners = found.xyxy.round().astype(int).tolist()
        marked = [
            Marked(*each)
            for each in zip(found.data["class_name"].tolist(), map(tuple, corners), strict=True)
        ]
        pictures[stem] = (size, marked)
    folders = [write(tmp_path / name, pictures, "val") for name, write in WRITERS.items()]
    for folder in folders:
        names = SplitDataset(find_split(folder, "val")).class_names
        assert set(names) <= set(loaded.class_names) == {"bird", "zebra"}
    results = [SplitEvaluation(loaded, folder, "val")() for folder in folders]
    assert results[0].AP50 > 0.2
    assert [result.numbers for result in results] == [results[0].numbers] * 3


def test_coco_goes_before_the_other_formats(tmp_path: Path) -> None:
    for write in WRITERS.values():
        write(tmp_path, PICTURES, "train")
    assert find_split(tmp_path, "train").annotations == tmp_path / "annotations" / "train.json"


def test_splits_of_every_format_are_told(tmp_path: Path) -> None:
    write_yolo_format(tmp_path, PICTURES, "test")
    write_voc_format(tmp_path, PICTURES, "trainval")
    with pytest.raises(ValueError, match=r"Splits there: test, train, trainval\.$"):
        find_split(tmp_path, "val")
