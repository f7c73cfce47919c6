"""A run that takes a second."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from saccade.data import Split
from saccade.recipes import for_detector
from saccade.run_config import RunConfig
from tests.conftest import small_config

OBJECTS = [
    {"image_id": image, "category_id": 1 + image % 2, "bbox": [4 * image, 8, 20, 24], "area": 480}
    for image in range(1, 5)
]


@pytest.fixture
def run(write_coco: Callable[..., Split], tmp_path: Path) -> RunConfig:
    """Two epochs of two steps on four images, one of them without objects; neither analysis,
    pictures nor report."""
    write_coco({1: (48, 64), 2: (48, 64), 3: (64, 48), 4: (48, 64)}, OBJECTS[:3])
    config = for_detector(small_config("two-stage"))
    return replace(
        config,
        model=replace(config.model, input=replace(config.model.input, short_side=64)),
        augmentation=replace(config.augmentation, short_sides=(64, 80), max_side=128),
        data=str(tmp_path),
        val_split="train",
        # The worker of the small recipe takes longer to start than these runs.
        num_workers=0,
        epochs=2,
        batch_size=2,
        analyse=0,
        pictures=0,
        report=False,
    )
