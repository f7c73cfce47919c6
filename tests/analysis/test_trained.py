import json
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saccade.analysis.images import FewImages
from saccade.analysis.trained import Analysis, analyse, change_between
from saccade.cli import main
from saccade.data import Split
from saccade.inference import Detector
from saccade.model import DetectorModel
from saccade.structures import Batch, Targets
from tests.conftest import small_config

OBJECTS = [{"image_id": 1, "category_id": 1, "bbox": [4, 8, 20, 24], "area": 480}]


@pytest.fixture
def data(write_coco: Callable[..., Split], tmp_path: Path) -> Path:
    write_coco({1: (48, 64), 2: (64, 48)}, OBJECTS)
    return tmp_path


def detector(kind: str, seed: int = 0) -> Detector:
    config = small_config(kind)
    config = replace(config, input=replace(config.input, short_side=96))
    torch.manual_seed(seed)
    return Detector(config, DetectorModel(config))


def analysis(kind: str, data: Path, seed: int = 0) -> Analysis:
    made = detector(kind, seed)
    return analyse(made, FewImages(data, "train", made.config, 2), seconds=0.01)


def test_the_command_prints_and_writes_what_checkpoints_do_and_cost(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = [str(tmp_path / name) for name in ("one", "other")]
    for seed, folder in enumerate(weights):
        detector("learned", seed).save_pretrained(folder)
    file = tmp_path / "numbers.json"
    options = ["--split", "train", "--images", "2", "--seconds", "0.01", "--json", str(file)]
    assert main(["analyse", "--weights", *weights, "--data", str(data), *options]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "One image of 96 x 128 pixels" in printed
    assert "decoder.layers.2.cross_attention" in printed
    assert "change their object" in printed
    one, other = (json.loads(file.read_text())[folder] for folder in weights)
    assert one["matching_change"] is None
    assert 0 < other["matching_change"]["num_changed"] <= other["matching_change"]["num_matched"]
    assert one["counts"] == other["counts"]
    assert one["counts"]["parameters"] == sum(
        parameter.numel() for parameter in detector("learned").model.parameters()
    )
    assert one["speed"]["images_per_second"] > 0
    assert {layer["name"] for layer in one["layers"]} >= {"encoder.layers.0.attention"}
    assert "answers" not in one
    assert "config" not in one


def test_no_more_than_two_images_are_held_at_a_time(
    write_coco: Callable[..., Split], tmp_path: Path
) -> None:
    """The one at hand and the one before it."""
    write_coco(dict.fromkeys(range(1, 5), (32, 48)))
    held: list[weakref.ref[torch.Tensor]] = []
    most = 0

    class Watched(FewImages):
        def __iter__(self) -> Iterator[tuple[Batch, list[Targets]]]:
            nonlocal most
            for batch, targets in super().__iter__():
                held.append(weakref.ref(batch.images))
                most = max(most, sum(each() is not None for each in held))
                yield batch, targets

    made = detector("learned")
    found = analyse(made, Watched(tmp_path, "train", made.config, 4), seconds=0.01)
    assert found.num_images == 4
    assert most == 2


def test_what_cannot_be_compared_is_not(data: Path) -> None:
    learned, proposals = analysis("learned", data), analysis("two-stage", data)
    assert proposals.answers is None
    assert change_between(learned, proposals) is None
    # As many queries, of another detector: which of them answers for an object says nothing.
    deeper = replace(learned.config, encoder=replace(learned.config.encoder, num_layers=3))
    assert change_between(learned, replace(learned, config=deeper)) is None
    other_classes = replace(learned.config, class_names=("dog", "cat"))
    assert change_between(learned, replace(learned, config=other_classes)) is None
    assert learned.answers is not None
    fewer = replace(learned, answers={id: each[:5] for id, each in learned.answers.items()})
    assert change_between(learned, fewer) is None
    elsewhere = replace(learned, answers={id + 7: each for id, each in learned.answers.items()})
    assert change_between(learned, elsewhere) is None
    change = change_between(learned, learned)
    assert change is not None
    assert (change.num_queries, change.num_changed) == (24, 0)


def test_no_weights_are_said(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", "--weights", "--data", str(data)]) == 2
    assert "no weights: name one or more with --weights" in capsys.readouterr().err
