"""Learning rates that fall with the distance from the heads."""

import pytest
import torch
from torch import nn

from saccade.model import DetectorModel
from saccade.presets import preset_config
from saccade.recipe_config import OptimizerConfig
from saccade.training.optimizer import build_optimizer, parameter_groups
from tests.conftest import small_config


def rates(model: nn.Module, config: OptimizerConfig) -> dict[str, float]:
    names = {id(each): name for name, each in model.named_parameters()}
    return {
        names[id(each)]: group["lr"]
        for group in parameter_groups(model, config)
        for each in group["params"]
    }


def test_rates_of_a_small_detector_layer_by_layer() -> None:
    """Heads 0, decoder 1 to 3, queries 4, encoder 5 and 6, neck 7, backbone 8 to 12."""
    model = DetectorModel(small_config("two-stage"))
    found = rates(
        model,
        OptimizerConfig(
            learning_rate=1.0, backbone_factor=0.5, sampling_factor=0.25, layer_decay=0.8
        ),
    )
    expected = {
        "decoder.heads.class_heads.0.weight": 1.0,
        "queries.class_head.bias": 1.0,
        "decoder.layers.2.ffn.expand.weight": 0.8,
        "decoder.layers.0.self_norm.weight": 0.8**3,
        "decoder.layers.1.cross_attention.sampling_offsets.weight": 0.8**2 * 0.25,
        "queries.content.weight": 0.8**4,
        "denoising.labels.weight": 0.8**4,
        "encoder.layers.1.norm.weight": 0.8**5,
        "encoder.layers.0.attention.sampling_offsets.bias": 0.8**6 * 0.25,
        "neck.levels.0.0.weight": 0.8**7,
        "backbone.body.stages.3.0.first.0.weight": 0.8**8 * 0.5,
        "backbone.body.stages.0.0.first.0.weight": 0.8**11 * 0.5,
        "backbone.body.stem.0.0.weight": 0.8**12 * 0.5,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert found.keys() == {name for name, _ in model.named_parameters()}


def test_rates_of_the_two_stage_detector_with_resnet_50() -> None:
    with torch.device("meta"):
        model = DetectorModel(preset_config("deformable-detr-r50-two-stage", ["cat"]))
    found = rates(model, OptimizerConfig(learning_rate=2e-4, layer_decay=0.9))
    expected = {
        "decoder.heads.box_heads.5.layers.0.weight": 2e-4,
        "decoder.layers.0.ffn.norm.bias": 2e-4 * 0.9**6,
        "queries.token_projection.0.weight": 2e-4 * 0.9**7,
        "encoder.layers.5.ffn.norm.bias": 2e-4 * 0.9**8,
        "encoder.layers.0.ffn.norm.bias": 2e-4 * 0.9**13,
        "neck.levels.3.0.weight": 2e-4 * 0.9**14,
        "backbone.body.layer4.0.conv1.weight": 2e-5 * 0.9**15,
        "backbone.body.layer2.3.conv3.weight": 2e-5 * 0.9**17,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert not any(".layer1." in name or ".conv1.weight" in name[:30] for name in found)


def test_the_first_group_has_the_full_rate_which_the_display_shows() -> None:
    groups = parameter_groups(DetectorModel(small_config("detr")), OptimizerConfig(layer_decay=0.5))
    assert groups[0]["lr"] == OptimizerConfig().learning_rate
    assert groups[0]["name"] == "other of heads"


def test_frozen_parts_have_no_group_and_no_state() -> None:
    model = DetectorModel(small_config("two-stage"))
    model.freeze(["backbone", "encoder"])
    optimizer = build_optimizer(model, OptimizerConfig(layer_decay=0.8))
    for each in model.parameters():
        each.grad = torch.zeros_like(each) if each.requires_grad else None
    optimizer.step()
    trained = {id(each) for each in model.parameters() if each.requires_grad}
    assert {id(each) for each in optimizer.state} == trained
    assert not trained & {id(each) for each in model.backbone.parameters()}


def test_a_model_that_does_not_tell_its_layers_is_refused() -> None:
    model = nn.ModuleDict({"backbone": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match=r"layer_decay is 0\.8, but ModuleDict does not tell its"):
        parameter_groups(model, OptimizerConfig(layer_decay=0.8))


@pytest.mark.parametrize("decay", [0.0, 1.1, float("nan")])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"^optimizer\.layer_decay is"):
        OptimizerConfig(layer_decay=decay)
