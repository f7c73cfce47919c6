import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from saccade.model import DetectorModel
from saccade.recipe_config import OptimizerConfig
from saccade.training.optimizer import (
    build_optimizer,
    parameter_groups,
    with_present_options,
)
from tests.conftest import small_config


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.sampling_offsets = nn.Linear(4, 8)
        self.value_proj = nn.Linear(4, 4)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attention()
        self.norm = nn.LayerNorm(4)
        # Names that hold the words, but are not the projections.
        self.sampling_offsets_gate = nn.Linear(4, 4)
        self.reference_points = nn.Embedding(3, 2)
        self.backbone_norm = nn.LayerNorm(4)


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), Attention())
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.reference_points = nn.Linear(4, 2)
        self.query = nn.Embedding(5, 4)


def names_by_group(model, groups):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {group["name"]: {names[id(each)] for each in group["params"]} for group in groups}


def test_groups_follow_modules_not_names():
    model = Toy()
    found = names_by_group(model, parameter_groups(model, OptimizerConfig()))
    everything = {name for name, _ in model.named_parameters()}
    sampling = {
        f"{module}.{kind}"
        for module in (
            "reference_points",
            "layers.0.attention.sampling_offsets",
            "layers.1.attention.sampling_offsets",
        )
        for kind in ("weight", "bias")
    }
    backbone = {f"backbone.{name}" for name, _ in model.backbone.named_parameters()}
    assert found["sampling"] == sampling
    assert found["backbone"] == backbone
    assert found["other"] == everything - sampling - backbone


def test_learning_rates_and_decay():
    config = OptimizerConfig(
        learning_rate=0.5, backbone_factor=0.25, sampling_factor=0.125, weight_decay=0.01
    )
    groups = {group["name"]: group for group in parameter_groups(Toy(), config)}
    rates = {"other": 0.5, "backbone": 0.125, "sampling": 0.0625}
    assert {name: group["lr"] for name, group in groups.items()} == rates
    assert {name: group["initial_lr"] for name, group in groups.items()} == rates
    assert {group["weight_decay"] for group in groups.values()} == {0.01}


@pytest.mark.parametrize("decay_vectors", [True, False])
def test_every_trained_parameter_is_in_exactly_one_group(decay_vectors):
    model = Toy()
    model.layers[1].shared = model.layers[0].attention.sampling_offsets
    model.backbone[0].requires_grad_(False)
    groups = parameter_groups(model, OptimizerConfig(decay_vectors=decay_vectors))
    counts = Counter(id(parameter) for group in groups for parameter in group["params"])
    trained = {id(each) for each in model.parameters() if each.requires_grad}
    assert counts == dict.fromkeys(trained, 1)
    assert len(trained) == len(list(model.parameters())) - 2


def test_offsets_of_deformable_convolutions_learn_slowest_of_all():
    config = small_config("learned")
    backbone = replace(config.backbone, deformable_levels=(5,))
    model = DetectorModel(replace(config, backbone=backbone))
    groups = {group["name"]: group for group in parameter_groups(model, OptimizerConfig())}
    offsets = [
        parameter
        for name, parameter in model.backbone.named_parameters()
        if "sampling_offsets" in name
    ]
    assert offsets
    assert {*map(id, groups["backbone sampling"]["params"])} == {*map(id, offsets)}
    assert groups["backbone sampling"]["lr"] == pytest.approx(2e-4 * 0.1 * 0.1)


def test_vectors_can_be_spared_from_decay():
    config = OptimizerConfig(decay_vectors=False)
    groups = parameter_groups(Toy(), config)
    assert {group["name"] for group in groups} == {
        f"{kind}{end}" for kind in ("other", "backbone", "sampling") for end in ("", " vectors")
    }
    for group in groups:
        vectors = group["name"].endswith(" vectors")
        assert group["weight_decay"] == (0.0 if vectors else config.weight_decay)
        assert all((parameter.ndim == 1) == vectors for parameter in group["params"])


def test_frozen_backbone_makes_no_group():
    model = Toy()
    model.backbone.requires_grad_(False)
    assert {group["name"] for group in parameter_groups(model, OptimizerConfig())} == {
        "other",
        "sampling",
    }


def test_wrapped_detector_is_refused():
    with pytest.raises(
        ValueError,
        match='Sequential has no module named "backbone": pass the detector itself, not a wrapper',
    ):
        parameter_groups(nn.Sequential(Toy()), OptimizerConfig())


def test_nothing_to_train():
    with pytest.raises(ValueError, match="no parameter of Toy is trained: set requires_grad on"):
        build_optimizer(Toy().requires_grad_(False), OptimizerConfig())


def test_fused_steps_agree_with_plain_adamw():
    torch.manual_seed(0)
    config = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1)
    model = Toy()
    twin = copy.deepcopy(model)
    before = nn.utils.parameters_to_vector(model.parameters()).detach()
    fused = build_optimizer(model, config)
    plain = torch.optim.AdamW(parameter_groups(twin, config), fused=False, foreach=False)
    assert fused.defaults["fused"]
    for _ in range(5):
        for mine, its in zip(model.parameters(), twin.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            its.grad = mine.grad.clone()
        fused.step()
        plain.step()
    after = nn.utils.parameters_to_vector(model.parameters())
    expected = nn.utils.parameters_to_vector(twin.parameters())
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-6)
    assert (after - before).abs().max() > 1e-2


def test_steps_where_there_is_no_fused_kernel():
    assert not build_optimizer(Toy().to("meta"), OptimizerConfig()).defaults["fused"]


def test_a_saved_state_takes_the_present_options():
    """All but the present learning rate, which is the schedule's."""
    model = Toy()
    saved = build_optimizer(model, OptimizerConfig(learning_rate=0.5))
    saved.param_groups[0]["lr"] = 0.05
    now = build_optimizer(model, OptimizerConfig(learning_rate=0.25, weight_decay=0.125))
    now.load_state_dict(with_present_options(saved.state_dict(), now))
    assert now.param_groups[0]["lr"] == 0.05
    assert now.param_groups[0]["initial_lr"] == 0.25
    assert {group["weight_decay"] for group in now.param_groups} == {0.125}


def test_a_saved_state_of_other_parameters_is_refused():
    model = Toy()
    saved = build_optimizer(model, OptimizerConfig()).state_dict()
    model.query.requires_grad_(False)
    now = build_optimizer(model, OptimizerConfig())
    with pytest.raises(ValueError, match="trains other parameters, or groups them otherwise: res"):
        with_present_options(saved, now)
