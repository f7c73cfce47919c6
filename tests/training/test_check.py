import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saccade.check import check
from saccade.cli import main
from saccade.config import DetectorConfig
from saccade.data.shapes import write_shapes
from saccade.recipes import for_detector
from saccade.run_config import RunConfig
from saccade.settings import write_yaml
from saccade.structures import Batch, Targets
from saccade.training import overfit
from saccade.training.overfit import OverfitResult, small_batch
from tests.conftest import SMALL, small_config


def test_the_command_checks_and_leaves_nothing(
    run: RunConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(overfit, "MOST_STEPS", 30)
    monkeypatch.setattr(overfit, "MOST_SECONDS", 1000.0)
    write_yaml(run, tmp_path / "run.yaml")
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", "--config", "run.yaml", "--check"]) == 0
    output = capsys.readouterr()
    assert output.out.startswith("In 30 steps on one batch the loss went from ")
    assert "objects are matched, and gradients reach every module." in output.out
    assert main(["train", "--config", "run.yaml", "--check", "--optimizer.learning-rate", "0"]) == 2
    assert "saccade train --check: the loss went from " in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dataset_without_objects_is_said(run: RunConfig) -> None:
    file = Path(run.data) / "annotations" / "train.json"
    start = file.read_text().index('"annotations"')
    end = file.read_text().index('"categories"')
    file.write_text(file.read_text()[:start] + '"annotations": [], ' + file.read_text()[end:])
    with pytest.raises(ValueError, match="none of the first 4 images has an object"):
        check(run)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"losses": (9.0, 8.0, 8.0, 8.0, 8.0, 8.0)}, "from 9 to 8 in 6 steps .* less than 7.2"),
        ({"losses": (9.0, math.nan)}, "the loss is not finite after 2 steps: lower"),
        ({"losses": (9.0, 1.0)}, "only 2 steps fit into 40 seconds"),
        ({"unreached": ("neck", "queries")}, "no gradient reaches neck, queries: freeze these"),
        ({"num_matched": 0}, "none of the 3 objects is matched"),
    ],
)
def test_each_problem_has_a_sentence(change: dict[str, object], problem: str | None) -> None:
    good = OverfitResult(
        losses=(9.0, 5.0, 4.0, 3.0, 2.0, 1.0), num_objects=3, num_matched=3, unreached=()
    )
    problems = replace(good, **change).problems
    assert len(problems) == (problem is not None)
    if problem is not None:
        with pytest.raises(ValueError, match=problem):
            raise ValueError(problems[0])


def test_a_large_batch_shrinks_with_its_boxes() -> None:
    batch = Batch.from_images([torch.ones(3, 400, 800), torch.ones(3, 64, 64), torch.ones(3, 8, 8)])
    targets = [
        Targets(
            torch.tensor([80.0, 40.0, 800.0, 400.0]).expand(count, 4),
            torch.zeros(count).long(),
            size,
        )
        for count, size in zip((2, 0, 1), batch.sizes, strict=True)
    ]
    small, kept = small_batch(batch, targets, most_pixels=2 * 100 * 200)
    assert small.sizes == ((100, 200), (2, 2))
    assert kept[0].boxes[0].tolist() == [20.0, 10.0, 200.0, 100.0]
    assert torch.equal(kept[0].fractions, targets[0].fractions)
    torch.testing.assert_close(small.images[0], torch.ones(3, 100, 200))


@pytest.mark.slow
@pytest.mark.parametrize("member", SMALL)
def test_every_detector_passes(member: str, tmp_path: Path) -> None:
    write_shapes(tmp_path, num_train=4, num_val=1, side=96, most_objects=3)
    model: DetectorConfig = small_config(member)
    model = replace(model, input=replace(model.input, short_side=96, max_side=96))
    run = for_detector(model)
    augmentation = replace(run.augmentation, short_sides=(96,), max_side=96)
    run = replace(run, data=str(tmp_path), augmentation=augmentation, batch_size=2)
    result = check(run)
    assert result.problems == [], str(result)
