"""`saccade eval` and what is behind it: test-time augmentation, limits of detections."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from saccade import Detector
from saccade.cli import main
from saccade.data import Split
from saccade.inference.augmented import View, make_views
from saccade.model import DetectorModel
from saccade.split_evaluation import SplitEvaluation
from tests.conftest import small_config

SIZES = {1: (48, 64), 2: (64, 48), 3: (50, 90)}
OBJECTS = [{"image_id": 1, "category_id": 1, "bbox": [4, 8, 20, 24], "area": 480, "iscrowd": 0}]


@pytest.fixture
def data(write_coco: Callable[..., Split]) -> Path:
    return write_coco(SIZES, OBJECTS).images.parent


@pytest.fixture
def detector() -> Detector:
    torch.manual_seed(0)
    config = small_config("learned", num_queries=40)
    return Detector(config, DetectorModel(config))


def test_one_plain_view_finds_what_is_found_without(data: Path, detector: Detector) -> None:
    plain = SplitEvaluation(detector, data, "train")
    viewed = SplitEvaluation(detector, data, "train", views=[View()], batch_size=2)
    assert plain().numbers == viewed().numbers
    ours, theirs = plain.evaluator.detections(), viewed.evaluator.detections()
    assert torch.equal(torch.from_numpy(ours.scores), torch.from_numpy(theirs.scores))
    assert ours.boxes == pytest.approx(theirs.boxes, abs=1e-3)


def test_views_change_what_is_found(data: Path, detector: Detector) -> None:
    plain = SplitEvaluation(detector, data, "train")
    viewed = SplitEvaluation(detector, data, "train", views=make_views([1.0]))
    plain(), viewed()
    assert len(viewed.evaluator.detections().scores) > 0
    assert plain.evaluator.detections().scores.max() != viewed.evaluator.detections().scores.max()


def test_the_command_augments_and_counts_more(
    data: Path, detector: Detector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector.save_pretrained(tmp_path / "weights")
    file = tmp_path / "numbers.json"
    where = ["--weights", str(tmp_path / "weights"), "--data", str(data), "--split", "train"]
    options = "--tta --tta-scales 1 0.7 --tta-flips horizontal vertical --max-detections 70"
    assert main(["eval", *where, *options.split(), "--json", str(file)]) == 0
    said = capsys.readouterr().out
    assert "AR70" in said
    assert "Up to 70 detections of an image and class count" in said
    assert json.loads(file.read_text())["max_detections"] == 70


def test_a_detector_gives_as_many_detections_as_count(data: Path, detector: Detector) -> None:
    evaluation = SplitEvaluation(detector, data, "train", max_detections=75)
    evaluation()
    assert len(evaluation.evaluator.detections().scores) == 3 * 75


@pytest.mark.filterwarnings("ignore:Left out:UserWarning")
@pytest.mark.parametrize("broken", [False, True])
def test_a_split_without_images_is_refused_before_hours_of_training(
    broken: bool, write_coco: Callable[..., Split], detector: Detector
) -> None:
    split = write_coco({1: (48, 64)} if broken else {})
    for file in split.images.iterdir():
        file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r'lists no image .*is "train" the split that you mean'):
        SplitEvaluation(detector, split.images.parent, "train", on_broken_image="skip")
