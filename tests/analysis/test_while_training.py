from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saccade.analysis.images import FewImages
from saccade.analysis.matching import keeps_queries
from saccade.analysis.while_training import EvaluationAnalysis
from saccade.data import Split
from saccade.model import DetectorModel
from saccade.recipe_config import LossConfig
from saccade.training import HungarianMatcher
from tests.conftest import small_config

OBJECTS = [
    {"image_id": 1, "category_id": 1, "bbox": [4, 8, 20, 24], "area": 480},
    {"image_id": 1, "category_id": 2, "bbox": [30, 8, 20, 24], "area": 480},
    {"image_id": 2, "category_id": 2, "bbox": [8, 20, 24, 30], "area": 720},
]


@pytest.fixture
def data(write_coco: Callable[..., Split], tmp_path: Path) -> Path:
    write_coco({1: (48, 64), 2: (64, 48), 3: (48, 64)}, OBJECTS)
    return tmp_path


def analysis_of(model: DetectorModel, kind: str, data: Path) -> EvaluationAnalysis:
    config = small_config(kind)
    config = replace(config, input=replace(config.input, short_side=64))
    images = FewImages(data, "train", config, 2)
    return EvaluationAnalysis(model, images, HungarianMatcher(LossConfig(), config.classification))


def test_every_kind_is_analysed_and_left_as_it_was(
    kind: str, model: DetectorModel, data: Path
) -> None:
    analyse = analysis_of(model, kind, data)
    model.train()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    first, second = analyse(), analyse()
    assert model.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(value < 0 for name, value in first.items() if name.startswith("sparsity/"))
    assert "sparsity/encoder.layers.0.attention" in first
    followed = (
        {"matching/changed", "matching/changed_of_matched"} if keeps_queries(model) else set()
    )
    assert second.keys() - first.keys() == followed
    assert keeps_queries(model) == (kind not in ("two-stage", "tsp-fcos", "tsp-rcnn"))
    assert all(second[name] == 0 for name in followed)


def test_the_matching_of_other_weights_is_another(data: Path) -> None:
    torch.manual_seed(0)
    model = DetectorModel(small_config("learned"))
    analyse = analysis_of(model, "learned", data)
    analyse()
    with torch.no_grad():
        for parameter in model.queries.parameters():
            parameter.copy_(torch.randn_like(parameter))
    record = analyse()
    # Three objects in two images of twelve queries: at most six answer for one, before or now.
    assert 0 < record["matching/changed"] <= 6 / 24
    assert record["matching/changed"] < record["matching/changed_of_matched"] <= 1


def test_the_images_are_spread_evenly_and_objects_matched_by_name(
    write_coco: Callable[..., Split], tmp_path: Path
) -> None:
    write_coco(dict.fromkeys(range(1, 8), (48, 64)), OBJECTS)
    config = replace(small_config("learned"), class_names=("dog", "horse"))
    images = FewImages(tmp_path, "train", config, 3)
    found = {target.image_id: target for batch, (target,) in images if not batch.padded}
    assert list(found) == [1, 3, 5]
    assert len(images) == 3
    assert found[1].labels.tolist() == [0]
    assert found[1].boxes.shape == (1, 4)
    assert len(FewImages(tmp_path, "train", config, 100)) == 7
    with pytest.raises(ValueError, match="0 images to look at: expected at least 1"):
        FewImages(tmp_path, "train", config, 0)
