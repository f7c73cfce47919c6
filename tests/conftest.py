"""Small detectors and datasets that the tests share; shapes in annotations are executed."""

import os

import torch
from jaxtyping import install_import_hook

# Before anything imports Triton, which looks at it then: without a GPU its kernels are interpreted.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Before the first import of the library. Not the numba kernels, which compile their own source.
CHECKED = (
    "boxes structures restricted_matching attention model weights data training evaluation "
    "analysis compat bench serve"
)
install_import_hook(
    [
        *(f"saccade.{room}" for room in CHECKED.split()),
        "saccade.ops.ms_deform_attn.dispatch",
        "saccade.ops.ms_deform_attn.reference",
    ],
    "beartype.beartype",
)

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saccade.config import DetectorConfig
from saccade.data import CocoSplit, Split
from saccade.model import DetectorModel
from saccade.presets import preset_config

# Processes that test side by side share the cores.
NUM_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if NUM_WORKERS > 1:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // NUM_WORKERS))

SMALL = {
    "two-stage": "deformable-detr-nano",
    "learned": "deformable-detr-nano",
    "detr": "detr-nano",
    "encoder-only": "encoder-only-detr-nano",
    "synthesizer-dense": "synthesizer-dense-detr-nano",
    "synthesizer-random": "synthesizer-random-detr-nano",
    "four-term": "four-term-detr-nano",
    "tsp-fcos": "tsp-fcos-nano",
    "tsp-rcnn": "tsp-rcnn-nano",
}
"""One detector per kind of queries and attention."""


def small_config(kind: str, num_queries: int = 12) -> DetectorConfig:
    """A detector of two classes with few queries and no dropout."""
    config = preset_config(SMALL[kind], class_names=["cat", "dog"])
    queries = replace(config.queries, num_queries=num_queries)
    if config.selection.kind != "none":
        selection = replace(config.selection, num_tokens=2 * num_queries)
        return replace(config, selection=selection)
    if kind != "learned":
        return replace(config, queries=queries)
    return replace(
        config,
        queries=replace(queries, source="learned"),
        denoising=replace(config.denoising, num_queries=0),
    )


@pytest.fixture(params=list(SMALL))
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of detector in turn."""
    return str(request.param)


@pytest.fixture
def model(kind: str) -> DetectorModel:
    """A detector whose weights are random everywhere, so that no output is constant."""
    torch.manual_seed(0)
    model = DetectorModel(small_config(kind)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model


CATEGORIES = ({"id": 1, "name": "cat"}, {"id": 2, "name": "dog"})


@pytest.fixture
def write_coco(tmp_path: Path) -> Callable[..., Split]:
    """Write a COCO folder of noise images with these ids and (height, width)."""

    def write(
        sizes: dict[int, tuple[int, int]],
        objects: Sequence[dict[str, Any]] = (),
        categories: Sequence[dict[str, Any]] = CATEGORIES,
    ) -> Split:
        split = CocoSplit(tmp_path / "images", tmp_path / "annotations" / "train.json")
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
