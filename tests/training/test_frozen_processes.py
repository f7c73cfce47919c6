"""Frozen parts in several processes, with averaged weights."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from saccade.data import Split
from saccade.inference import Detector
from saccade.model import DetectorModel
from tests.conftest import small_config


@pytest.mark.slow
def test_two_processes_leave_frozen_parts_alone(
    write_coco: Callable[..., Split], tmp_path: Path
) -> None:
    """No process waits for a gradient that a frozen part would not have; no bit of it changes."""
    config = small_config("two-stage")
    known = Detector(config, DetectorModel(config))
    known.save_pretrained(tmp_path / "known")
    objects = [{"image_id": 1, "category_id": 1, "bbox": [4, 8, 20, 24], "area": 480}]
    folder = write_coco(dict.fromkeys(range(1, 5), (48, 64)), objects).images.parent
    command = (
        f"-m saccade train --data {folder} --val-split train --weights {tmp_path / 'known'} "
        "--freeze backbone encoder decoder.layers.0 --optimizer.layer-decay 0.8 --ema 0.9 "
        "--epochs 1 --batch-size 1 --launch.accelerator cpu --launch.devices 2 --analyse 0 "
        "--model.input.short-side 64 --augmentation.short-sides 64 "
        f"--out {tmp_path / 'run'}"
    )
    subprocess.run([sys.executable, *command.split()], check=True, timeout=600, cwd=tmp_path)
    before = known.model.state_dict()
    after = Detector.from_pretrained(tmp_path / "run" / "last").model.state_dict()
    frozen = ("backbone.", "encoder.", "decoder.layers.0.")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert not {key for key in changed if key.startswith(frozen)}
    assert any(key.startswith("decoder.layers.1.") for key in changed)
