"""The layers of a detector, from the image to its heads."""

from collections import Counter
from dataclasses import replace

import pytest
import timm
import torch

from saccade.model import DetectorModel
from saccade.model.depth import stages
from saccade.presets import preset_config
from tests.conftest import small_config


def test_every_parameter_has_one_layer(kind: str) -> None:
    with torch.device("meta"):
        model = DetectorModel(small_config(kind))
    layers = model.layers_from_image()
    counts = Counter(id(each) for part in layers.values() for each in part)
    assert counts == {id(each): 1 for each in model.parameters()}
    assert next(iter(layers)) == "backbone.stem"
    assert list(layers)[-1] == "heads"


def test_the_layers_of_the_two_stage_detector_with_resnet_50() -> None:
    with torch.device("meta"):
        model = DetectorModel(preset_config("deformable-detr-r50-two-stage", ["cat"]))
    layers = model.layers_from_image()
    assert list(layers) == [
        "backbone.stem",
        *(f"backbone.layer{stage}" for stage in (1, 2, 3, 4)),
        "neck",
        *(f"encoder.layers.{index}" for index in range(6)),
        "queries",
        *(f"decoder.layers.{index}" for index in range(6)),
        "heads",
    ]
    names = {id(each): name for name, each in model.named_parameters()}
    found = {layer: [names[id(each)] for each in part] for layer, part in layers.items()}
    assert all(name.startswith("backbone.body.layer3.") for name in found["backbone.layer3"])
    assert {name.split(".")[0] for name in found["neck"]} == {"neck", "positions"}
    assert all(
        name.startswith(("decoder.heads.", "queries.class_head.", "queries.box_head."))
        for name in found["heads"]
    )
    assert any(name.startswith("queries.class_head.") for name in found["heads"])
    assert {name.split(".")[1] for name in found["queries"]} == {
        "token_projection",
        "box_projection",
    }


def test_what_only_training_has_learns_with_the_queries() -> None:
    config = small_config("two-stage")
    more = replace(config, one_to_many=replace(config.one_to_many, num_queries=5))
    model = DetectorModel(more)
    assert model.one_to_many is not None
    assert model.denoising is not None
    ids = {id(each) for each in model.layers_from_image()["queries"]}
    for part in (model.one_to_many, model.denoising):
        assert {id(each) for each in part.parameters()} <= ids


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ["stem", "layer1", "layer2", "layer3", "layer4"]),
        ("convnext_atto", ["stem", "stages_0", "stages_1", "stages_2", "stages_3"]),
    ],
)
def test_stages_of_other_backbones(name: str, expected: list[str]) -> None:
    with torch.device("meta"):
        body = timm.create_model(name, features_only=True)
    paths = [path.replace(".", "_", 1) for path in body.feature_info.module_name()]
    assert [stage for stage, _ in stages(body, paths)] == expected


def test_a_backbone_whose_stages_cannot_be_told_goes_by_its_children() -> None:
    with torch.device("meta"):
        body = timm.create_model("resnet18", features_only=True)
    found = stages(body, ["", ""])
    assert [name for name, _ in found] == ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]
