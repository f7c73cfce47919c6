import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from saccade.model import DetectorModel
from saccade.recipe_config import OptimizerConfig, ScheduleConfig
from saccade.training.optimizer import (
    build_optimizer,
    learning_rate_factor,
    parameter_groups,
    set_learning_rate,
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


def test_step_schedule_drops_at_epoch_40_of_50():
    factors = [learning_rate_factor(epoch / 50, ScheduleConfig()) for epoch in range(51)]
    assert factors == [1.0] * 40 + [0.1] * 11


def test_cosine_schedule_falls_from_the_end_of_the_warmup():
    schedule = ScheduleConfig(kind="cosine", warmup=0.2, final_factor=0.1)
    factors = [learning_rate_factor(progress, schedule) for progress in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert factors == pytest.approx([0.0, 0.5, 1.0, 0.55, 0.1])


def test_flat_cosine_schedule_falls_from_its_knee():
    schedule = ScheduleConfig(kind="flat-cosine", warmup=0.1, flat_until=0.6, final_factor=0.2)
    moments = (0.0, 0.05, 0.1, 0.4, 0.6, 0.8, 1.0, 1.2)
    factors = [learning_rate_factor(progress, schedule) for progress in moments]
    assert factors == pytest.approx([0.0, 0.5, 1.0, 1.0, 1.0, 0.6, 0.2, 0.2])


def test_flat_cosine_schedule_without_a_fall_is_flat():
    schedule = ScheduleConfig(kind="flat-cosine", flat_until=1.0)
    assert [learning_rate_factor(progress, schedule) for progress in (0.0, 1.0, 1.5)] == [1.0] * 3


def test_warmup_precedes_the_step():
    schedule = ScheduleConfig(warmup=0.5, drop_at=0.8)
    factors = [learning_rate_factor(progress, schedule) for progress in (0.25, 0.5, 0.79, 0.8)]
    assert factors == [0.5, 1.0, 1.0, 0.1]


@pytest.mark.parametrize("kind", ["step", "cosine", "flat-cosine"])
def test_run_that_overstays_keeps_its_last_factor(kind):
    schedule = ScheduleConfig(kind=kind, final_factor=0.05)
    assert learning_rate_factor(1.3, schedule) == learning_rate_factor(1.0, schedule)


@pytest.mark.parametrize("progress", [-0.1, float("nan")])
def test_progress_that_is_no_fraction(progress):
    with pytest.raises(
        ValueError,
        match=f"progress is {progress}: expected the fraction of the run that has passed, 0 to 1",
    ):
        learning_rate_factor(progress, ScheduleConfig())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"warmup": 1.0}, r"schedule\.warmup is 1\.0: expected a fraction of the run, at least 0"),
        (
            {"kind": "flat-cosine", "warmup": 0.2, "flat_until": 0.1},
            r"schedule\.flat_until is 0\.1: expected a fraction .* the warm-up, 0\.2, to 1",
        ),
        ({"flat_until": 30.0}, r"schedule\.flat_until is 30\.0: expected a fraction of the run"),
        ({"drop_at": 40.0}, r"schedule\.drop_at is 40\.0: expected a fraction of the run, 0 to 1"),
    ],
)
def test_schedule_in_epochs_or_steps_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ScheduleConfig(**values)


def test_factor_multiplies_the_first_rate_each_time_and_survives_resuming():
    optimizer = build_optimizer(Toy(), OptimizerConfig(learning_rate=1.0))
    set_learning_rate(optimizer, 0.5)
    resumed = build_optimizer(Toy(), OptimizerConfig(learning_rate=1.0))
    resumed.load_state_dict(optimizer.state_dict())
    set_learning_rate(resumed, 0.1)
    rates = {group["name"]: group["lr"] for group in resumed.param_groups}
    assert rates == pytest.approx({"other": 0.1, "backbone": 0.01, "sampling": 0.01})
