import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saccade.config import RunConfig
from saccade.data import Split
from saccade.recipes import for_detector
from saccade.run import train
from saccade.settings import read_yaml
from saccade.training import loop
from saccade.training.checkpoint import Progress, load_checkpoint
from tests.conftest import small_config

OBJECTS = [
    {"image_id": image, "category_id": 1 + image % 2, "bbox": [4 * image, 8, 20, 24], "area": 480}
    for image in range(1, 5)
]


@pytest.fixture
def run(write_coco: Callable[..., Split], tmp_path: Path) -> RunConfig:
    """Two epochs of two steps on four images, one of them without objects."""
    write_coco({1: (48, 64), 2: (48, 64), 3: (64, 48), 4: (48, 64)}, OBJECTS[:3])
    config = for_detector(small_config("two-stage"))
    return replace(
        config,
        model=replace(config.model, input=replace(config.model.input, short_side=64)),
        augmentation=replace(config.augmentation, short_sides=(64, 80), max_side=128),
        data=str(tmp_path),
        val_split="train",
        epochs=2,
        batch_size=2,
    )


def test_a_resumed_run_equals_the_uninterrupted_one_bitwise(
    run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(run, tmp_path / "whole")

    def stop_in_second_epoch(*arguments: object) -> None:
        progress = arguments[-1]
        assert isinstance(progress, Progress)
        if progress.step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "check_finite", stop_in_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            train(run, tmp_path / "interrupted")
    resumed = train(run, tmp_path / "interrupted", resume=True)

    for name, weights in whole.model.state_dict().items():
        assert torch.equal(weights, resumed.model.state_dict()[name]), name
    optimizers = [
        load_checkpoint(tmp_path / folder / "last.ckpt")[2]["state"]
        for folder in ("whole", "interrupted")
    ]
    assert all(
        torch.equal(optimizers[0][index][key], optimizers[1][index][key])
        for index in optimizers[0]
        for key in optimizers[0][index]
    )


def test_the_run_folder_is_complete(run: RunConfig, tmp_path: Path) -> None:
    detector = train(run, tmp_path / "run")
    assert read_yaml(tmp_path / "run" / "config.yaml") == run
    assert detector.class_names == ("cat", "dog")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "best",
        "last",
        "last.ckpt",
        "config.yaml",
        "evaluations.jsonl",
        "logs",
        "csv",
    }
    assert len((tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()) == 2


def test_a_folder_with_a_run_is_not_overwritten(run: RunConfig, tmp_path: Path) -> None:
    train(replace(run, epochs=1), tmp_path / "run")
    before = (tmp_path / "run" / "last.ckpt").read_bytes()
    with pytest.raises(ValueError, match=r"holds a run already: resume it \(--resume\), or name"):
        train(run, tmp_path / "run")
    assert (tmp_path / "run" / "last.ckpt").read_bytes() == before


def test_training_reduces_the_loss_on_what_it_has_seen(run: RunConfig, tmp_path: Path) -> None:
    run = replace(run, epochs=12, num_evaluations=1)
    totals: list[float] = []
    original = loop.check_finite

    def record(total: torch.Tensor, *rest: object) -> None:
        totals.append(total.item())
        original(total, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "check_finite", record)
        train(run, tmp_path / "run")
    assert sum(totals[-4:]) < 0.8 * sum(totals[:4])


def test_a_loss_that_is_not_finite_names_the_images(run: RunConfig, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.SetCriterion, "total", lambda self, losses: losses["loss_ce"] * math.nan)
        with pytest.raises(ValueError, match=r"not finite at step 1 .*image ids \d, \d.*lower"):
            train(run, tmp_path / "run")


def test_minutes_bound_the_run_and_space_the_evaluations() -> None:
    config = RunConfig(model=small_config("detr"), minutes=2.0, num_evaluations=4)
    assert not loop.is_evaluation_due(Progress(seconds=29.0), config)
    assert loop.is_evaluation_due(Progress(seconds=31.0), config)
    assert not loop.is_evaluation_due(Progress(seconds=31.0, evaluations=1), config)
    assert not loop.is_over(Progress(seconds=119.0), config)
    assert loop.is_over(Progress(seconds=120.0), config)
    assert loop.share_passed(Progress(seconds=60.0), config, steps_per_epoch=10) == 0.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"last\.ckpt does not exist: there is no run to resume"),
        (b"PK\x03\x04 cut short", r"last\.ckpt is not a complete checkpoint of a run"),
    ],
)
def test_a_broken_checkpoint_is_said_in_one_sentence(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "last.ckpt")
