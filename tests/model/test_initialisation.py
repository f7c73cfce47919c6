"""The official initialisation (reference: the paper's appendix A.4 and the official repository)."""

import math
from dataclasses import replace

import pytest
import torch

from saccade.attention import DeformableAttention, MultiheadAttention
from saccade.config import DetectorConfig
from saccade.model import DetectorModel
from saccade.model.backbone import Backbone
from saccade.presets import preset_config


def small(name: str) -> DetectorConfig:
    config = preset_config(name)
    return replace(config, backbone=replace(config.backbone, name="resnet18"))


def test_sampling_offsets_start_as_a_star() -> None:
    attention = DeformableAttention(width=32, num_heads=8, num_levels=2, num_points=3)
    assert not attention.sampling_offsets.weight.any()
    star = attention.sampling_offsets.bias.view(8, 2, 3, 2)
    torch.testing.assert_close(star[0, 1, 0], torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(star[1, 0, 1], torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(star[2, 0, 2], torch.tensor([0.0, 3.0]), atol=1e-6, rtol=0)
    assert not attention.attention_weights.weight.any()
    assert not attention.attention_weights.bias.any()


def test_projections_of_dense_attention_are_xavier_over_the_joint_matrix() -> None:
    torch.manual_seed(0)
    attention = MultiheadAttention(width=64, num_heads=4, dropout=0.0)
    joint = math.sqrt(6 / (64 + 3 * 64))
    for projection in (attention.query_projection, attention.value_projection):
        assert 0.98 * joint < projection.weight.abs().max() <= joint
    own = math.sqrt(6 / (64 + 64))
    assert 0.98 * own < attention.output_projection.weight.abs().max() <= own


@pytest.mark.parametrize(
    ("name", "first_size_bias", "second_size_bias"),
    [
        ("deformable-detr-r50", -2.0, None),
        ("deformable-detr-r50-refine", -2.0, 0.0),
        ("deformable-detr-r50-two-stage", 0.0, 0.0),
    ],
)
def test_heads_start_at_the_prior(
    name: str, first_size_bias: float, second_size_bias: float | None
) -> None:
    model = DetectorModel(small(name))
    heads = model.decoder.heads
    for class_head in heads.class_heads:
        assert torch.allclose(class_head.bias.sigmoid(), torch.tensor(0.01))
    biases = [head.layers[-1].bias for head in heads.box_heads]
    assert biases[0].tolist() == [0.0, 0.0, first_size_bias, first_size_bias]
    if second_size_bias is None:
        assert len(biases) == 1
    else:
        assert len(biases) == 6
        assert biases[1].tolist() == [0.0, 0.0, second_size_bias, second_size_bias]
        assert torch.equal(heads.class_heads[0].weight, heads.class_heads[5].weight)
    assert not any(head.layers[-1].weight.any() for head in heads.box_heads)
    if name.endswith("two-stage"):
        assert torch.equal(model.queries.class_head.weight, heads.class_heads[0].weight)
        first_layers = model.queries.box_head.layers[0], heads.box_heads[0].layers[0]
        assert torch.equal(first_layers[0].weight, first_layers[1].weight)


def test_levels_and_queries_start_with_unit_variance() -> None:
    torch.manual_seed(0)
    model = DetectorModel(small("deformable-detr-r50"))
    for weight in (model.queries.positions.weight, model.queries.content.weight):
        assert weight.std().item() == pytest.approx(1, abs=0.02)
    assert model.positions.level_embedding.std().item() == pytest.approx(1, abs=0.1)
    assert not model.queries.reference_points.bias.any()
    assert model.neck.levels[3][0].bias.abs().sum() == 0


def test_frozen_parts_have_no_gradient() -> None:
    model = DetectorModel(small("deformable-detr-r50"))
    frozen = {name for name, p in model.backbone.named_parameters() if not p.requires_grad}
    assert {name.split(".")[1] for name in frozen} == {"conv1", "layer1"}
    assert not any("bn" in name for name, _ in model.backbone.named_parameters())


def test_frozen_stages_keep_their_statistics_while_other_norms_train() -> None:
    config = small("deformable-detr-r50").backbone
    backbone = Backbone(replace(config, norm="trained")).train()
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    backbone(torch.randn(2, 3, 64, 64))
    moved = {
        name.split(".")[1]
        for name, buffer in backbone.named_buffers()
        if not torch.equal(buffer, before[name])
    }
    assert moved == {"layer2", "layer3", "layer4"}
