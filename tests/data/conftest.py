import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saccade.data import Split

CATEGORIES = ({"id": 1, "name": "cat"}, {"id": 2, "name": "dog"})


@pytest.fixture
def write_coco(tmp_path: Path) -> Callable[..., Split]:
    """Write a COCO folder of noise images with these ids and (height, width)."""

    def write(
        sizes: dict[int, tuple[int, int]],
        objects: Sequence[dict[str, Any]] = (),
        categories: Sequence[dict[str, Any]] = CATEGORIES,
    ) -> Split:
        split = Split(tmp_path / "images", tmp_path / "annotations" / "train.json")
        split.images.mkdir(exist_ok=True)
        split.annotations.parent.mkdir(exist_ok=True)
        images = []
        for id, (height, width) in sizes.items():
            pixels = np.random.default_rng(id).integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(split.images / f"{id}.png")
            images.append({"id": id, "file_name": f"{id}.png", "height": height, "width": width})
        annotations = [{"id": number} | entry for number, entry in enumerate(objects, start=1)]
        content = {"images": images, "annotations": annotations, "categories": list(categories)}
        split.annotations.write_text(json.dumps(content))
        return split

    return write
