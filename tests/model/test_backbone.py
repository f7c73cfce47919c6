from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from saccade import Detector
from saccade.config import DetectorConfig
from saccade.config_parts import BackboneConfig
from saccade.model import DetectorModel
from saccade.model.backbone import Backbone
from saccade.model.deformable_convolution import DeformableConv2d
from saccade.presets import preset_config
from saccade.structures import Batch

FAMILIES = {
    "resnet18": "layer1",
    "resnext50_32x4d": "layer1",
    "convnext_atto": "stages_0",
    "swin_tiny_patch4_window7_224": "layers_0",
    "efficientnet_b0": "blocks.1",
    "mobilenetv3_small_050": "blocks.0",
}
"""The smallest of each family, with the module that gives its C2."""
LARGE = ("resnet101", "resnext101_64x4d")


def two_stage(**backbone: object) -> DetectorConfig:
    """The two-stage preset on another backbone, its transformer of one layer each."""
    config = preset_config("deformable-detr-r50-two-stage", class_names=["cat", "dog"])
    return replace(
        config,
        backbone=replace(config.backbone, **backbone),
        neck=replace(config.neck, width=32),
        encoder=replace(config.encoder, num_layers=1, ffn_width=32, dropout=0.0),
        decoder=replace(config.decoder, num_layers=1, ffn_width=32, dropout=0.0),
        queries=replace(config.queries, num_queries=12),
    )


def images() -> Batch:
    """Sizes that are no multiple of any stride, and none that a transformer was made for."""
    generator = torch.Generator().manual_seed(1)
    return Batch.from_images(
        [torch.randn(3, *size, generator=generator) for size in ((75, 69), (66, 101))]
    )


def assert_lives(config: DetectorConfig, folder: Path) -> Detector:
    """It runs forward and backward, and is the same once saved and loaded."""
    torch.manual_seed(0)
    detector = Detector(config, DetectorModel(config))
    predictions = detector.model.train()(images())
    (predictions.logits.square().mean() + predictions.boxes.square().mean()).backward()
    backbone = detector.model.backbone
    silent = [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert silent == []
    assert any(p.requires_grad for p in backbone.parameters())
    detector.save_pretrained(folder)
    loaded = Detector.from_pretrained(folder)
    with torch.inference_mode():
        before, after = detector.model.eval()(images()), loaded.model.eval()(images())
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.boxes, after.boxes)
    return detector


@pytest.mark.parametrize(
    "name", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
)
def test_the_two_stage_detector_lives_on_every_family(name: str, tmp_path: Path) -> None:
    assert_lives(two_stage(name=name), tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        pytest.param("resnet50", marks=pytest.mark.slow),
        pytest.param("resnext101_64x4d", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("modulated", [False, True])
def test_it_lives_with_deformable_convolutions(name: str, modulated: bool, tmp_path: Path) -> None:
    config = two_stage(name=name, deformable_levels=(3, 4, 5), modulated=modulated)
    detector = assert_lives(config, tmp_path)
    stages = {
        path.split(".")[1]
        for path, module in detector.model.backbone.named_modules()
        if isinstance(module, DeformableConv2d)
    }
    assert stages == {"layer2", "layer3", "layer4"}


@pytest.mark.parametrize("name", [*FAMILIES, "small-resnet"])
def test_maps_have_the_channels_and_strides_said(name: str) -> None:
    small = {"num_frozen_stages": 0} if name == "small-resnet" else {}
    with torch.device("meta"):
        backbone = Backbone(BackboneConfig(name=name, **small)).eval()
        maps = backbone(torch.empty(1, 3, 64, 96))
    assert [map_.shape[1] for map_ in maps] == backbone.channels
    assert [tuple(map_.shape[2:]) for map_ in maps] == [(8, 12), (4, 6), (2, 3)]


def trained(body: nn.Module) -> list[str]:
    return [name for name, p in body.named_parameters() if p.requires_grad]


@pytest.mark.parametrize("name", FAMILIES)
def test_as_many_stages_are_frozen_as_asked_for(name: str) -> None:
    config = BackboneConfig(name=name, norm="trained")
    with torch.device("meta"):
        none, stem, second = (
            Backbone(replace(config, num_frozen_stages=count)).body for count in (0, 1, 2)
        )
    names = [key for key, _ in none.named_parameters()]
    inside = [index for index, key in enumerate(names) if key.startswith(FAMILIES[name] + ".")]
    assert trained(none) == names
    assert trained(stem) == names[inside[0] :]
    assert trained(second) == names[inside[-1] + 1 :]


def test_norms_are_frozen_only_where_they_are_batch_norms() -> None:
    backbone = Backbone(BackboneConfig(name="convnext_atto", num_frozen_stages=0))
    norms = [m for m in backbone.modules() if isinstance(m, nn.LayerNorm)]
    assert norms
    assert all(p.requires_grad for m in norms for p in m.parameters())


def test_stages_beyond_the_last_level_are_not_built() -> None:
    backbone = Backbone(BackboneConfig(name="resnet18", levels=(3, 4)))
    assert not any(name.startswith("layer4") for name, _ in backbone.body.named_parameters())


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "efficientnet_b0"])
def test_a_dilated_last_stage_keeps_the_stride_of_the_one_before(name: str) -> None:
    with torch.device("meta"):
        backbone = Backbone(BackboneConfig(name=name, dilated=True)).eval()
        maps = backbone(torch.empty(1, 3, 64, 96))
    assert [tuple(map_.shape[2:]) for map_ in maps] == [(8, 12), (4, 6), (4, 6)]


def test_deformable_convolutions_start_as_plain_ones() -> None:
    config = BackboneConfig(name="resnet18", dilated=True)
    plain = Backbone(config).eval()
    for name, buffer in plain.named_buffers():
        if name.endswith("2.weight"):
            # timm zeroes the last norm of a block, which would hide its convolutions.
            buffer.fill_(1.0)
    deformable = Backbone(replace(config, deformable_levels=(3, 4, 5))).eval()
    missing, unexpected = deformable.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    assert all(".sampling_offsets." in name for name in missing)
    picture = images().images
    with torch.no_grad():
        for ours, expected in zip(deformable(picture), plain(picture), strict=True):
            assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()
        for module in deformable.modules():
            if isinstance(module, DeformableConv2d):
                module.sampling_offsets.bias.add_(0.3)
        for ours, expected in zip(deformable(picture), plain(picture), strict=True):
            assert (ours - expected).abs().max() > 1e-2 * expected.abs().max()


def test_the_small_network_can_be_deformable() -> None:
    config = BackboneConfig(name="small-resnet", num_frozen_stages=0, deformable_levels=(5,))
    layers = [
        name for name, m in Backbone(config).named_modules() if isinstance(m, DeformableConv2d)
    ]
    assert layers == ["body.stages.3.0.first.0", "body.stages.3.0.second.0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet_x"}, r'backbone\.name is "resnet_x", which timm .* does not have'),
        ({"name": "convnext_atto", "levels": (1, 5)}, r"asks for C1 of stride 2, but convnext"),
        (
            {"name": "swin_tiny_patch4_window7_224", "dilated": True},
            r'backbone\.dilated is true, but timm .* cannot dilate "swin_tiny.*unset',
        ),
        (
            {"name": "convnext_atto", "deformable_levels": (4,)},
            r"backbone\.deformable_levels with .*'convnext_atto': .* has no 3x3 convolution",
        ),
        (
            {"name": "resnet18", "levels": (3, 4), "deformable_levels": (5,)},
            r"backbone\.deformable_levels asks for C5 of resnet18, .* are C1, C2, C3, C4: change",
        ),
        (
            {"name": "resnet18", "deformable_levels": (2,)},
            r"num_frozen_stages is 2: the offsets of frozen stages never train",
        ),
        (
            {"name": "resnet18", "num_frozen_stages": 6},
            r"backbone\.num_frozen_stages asks for C6 of resnet18, .* C4, C5: change",
        ),
        (
            {"name": "hrnet_w18_small"},
            r"backbone\.num_frozen_stages asks for C2 of hrnet_w18_small",
        ),
    ],
)
def test_what_a_backbone_cannot_do_is_said(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Backbone(BackboneConfig(**options))
