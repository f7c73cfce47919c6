"""Several processes train as Fabric launches them: the command itself, twice."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from saccade.data import Split
from saccade.inference import Detector


@pytest.mark.slow
def test_two_processes_train_and_evaluate_together(
    write_coco: Callable[..., Split], tmp_path: Path
) -> None:
    """One process's images have no objects at all: nobody waits for a gradient that never comes."""
    sizes = dict.fromkeys(range(1, 6), (48, 64))
    objects = [{"image_id": 1, "category_id": 1, "bbox": [4, 8, 20, 24], "area": 480}]
    folder = write_coco(sizes, objects).images.parent
    command = (
        f"-m saccade train --data {folder} --val-split train --preset deformable-detr-nano "
        "--epochs 2 --batch-size 1 --launch.accelerator cpu --launch.devices 2 "
        "--model.input.short-side 128 --augmentation.short-sides 128 "
        f"--model.queries.num-queries 20 --out {tmp_path / 'run'}"
    )
    subprocess.run([sys.executable, *command.split()], check=True, timeout=400, cwd=tmp_path)
    lines = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    assert Detector.from_pretrained(tmp_path / "run" / "last").class_names == ("cat", "dog")
