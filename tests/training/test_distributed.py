"""Several processes take the steps of one."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
from safetensors.torch import load_file

from saccade.run_config import LaunchConfig, RunConfig
from saccade.training.records import EvaluationRecords
from tests.training.processes import train_in


@pytest.fixture
def plain(run: RunConfig) -> RunConfig:
    """Nothing that depends on how images are put together: no noise, no norm that counts along, no
    padding. Batches of four images."""
    model = replace(
        run.model,
        denoising=replace(run.model.denoising, num_queries=0),
        backbone=replace(run.model.backbone, norm="frozen"),
    )
    augmentation = replace(run.augmentation, short_sides=(64,), max_side=64)
    return replace(
        run,
        model=model,
        augmentation=augmentation,
        batch_size=4,
        epochs=4,
        num_workers=0,
        launch=LaunchConfig(accelerator="cpu"),
    )


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_processes_take_the_steps_of_one(plain: RunConfig, tmp_path: Path, strategy: str) -> None:
    alone = train_in(1, plain, tmp_path / "alone")
    launch = replace(plain.launch, strategy=strategy)
    both = train_in(2, replace(plain, batch_size=2, launch=launch), tmp_path / "both")
    print(alone, both)
    assert 0
