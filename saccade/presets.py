"""Named detectors: each function returns one complete configuration.

The published AP in each docstring is COCO val2017's, as its source gives it; it needs the
published weights or the published training.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from saccade.coco_classes import COCO_CLASSES
from saccade.config import (
    BackboneConfig,
    DecoderConfig,
    DenoisingConfig,
    DetectorConfig,
    EncoderConfig,
    InputConfig,
    NeckConfig,
    PositionConfig,
    QueryConfig,
    as_class_names,
)

Preset = Callable[[], DetectorConfig]


def deformable_detr_r50() -> DetectorConfig:
    """Deformable DETR, multi-scale: AP 44.5 after 50 epochs (official repository), 43.8 (paper)."""
    return DetectorConfig(class_names=COCO_CLASSES)


def deformable_detr_r50_refine() -> DetectorConfig:
    """+ iterative box refinement: AP 46.2 after 50 epochs (official repository), 45.4 (paper)."""
    return with_refinement(deformable_detr_r50())


def deformable_detr_r50_two_stage() -> DetectorConfig:
    """++ two-stage: AP 46.9 after 50 epochs (official repository), 46.2 (paper)."""
    return with_two_stages(deformable_detr_r50())


def deformable_detr_r50_single_scale() -> DetectorConfig:
    """One level, C5: AP 39.4 after 50 epochs (official repository)."""
    return single_scale(deformable_detr_r50())


def deformable_detr_r50_single_scale_dc5() -> DetectorConfig:
    """One level, dilated C5: AP 41.5 after 50 epochs (official repository)."""
    return dilated(deformable_detr_r50_single_scale())


def deformable_detr_r101() -> DetectorConfig:
    """Deformable DETR with ResNet-101; no AP is published without the two steps."""
    return with_backbone(deformable_detr_r50(), "resnet101")


def deformable_detr_r101_refine() -> DetectorConfig:
    """+ iterative box refinement, ResNet-101; no AP is published for this step alone."""
    return with_backbone(deformable_detr_r50_refine(), "resnet101")


def deformable_detr_r101_two_stage() -> DetectorConfig:
    """++ two-stage, ResNet-101: AP 48.7 on test-dev (paper, table 3)."""
    return with_backbone(deformable_detr_r50_two_stage(), "resnet101")


def deformable_detr_r101_single_scale() -> DetectorConfig:
    """One level, C5 of ResNet-101; no AP is published."""
    return with_backbone(deformable_detr_r50_single_scale(), "resnet101")


def deformable_detr_r101_single_scale_dc5() -> DetectorConfig:
    """One level, dilated C5 of ResNet-101; no AP is published."""
    return with_backbone(deformable_detr_r50_single_scale_dc5(), "resnet101")


def deformable_detr_nano() -> DetectorConfig:
    """Two stages and refinement at three million parameters, for small machines and images.

    Trains from random weights with denoising queries; `make demo` says what it reaches.
    """
    width = 128
    return DetectorConfig(
        class_names=COCO_CLASSES,
        backbone=BackboneConfig(name="small-resnet", norm="trained", num_frozen_stages=0),
        neck=NeckConfig(width=width, num_extra_levels=0),
        encoder=EncoderConfig(num_layers=2, ffn_width=256, dropout=0.0),
        queries=QueryConfig(num_queries=100, source="two-stage", content="learned"),
        decoder=DecoderConfig(num_layers=3, ffn_width=256, dropout=0.0, refined=True),
        denoising=DenoisingConfig(num_queries=60),
        input=InputConfig(short_side=240, max_side=400),
    )


def detr_r50() -> DetectorConfig:
    """DETR: AP 42.0 after 500 epochs (official repository)."""
    return DetectorConfig(
        class_names=COCO_CLASSES,
        backbone=BackboneConfig(levels=(5,)),
        neck=NeckConfig(num_extra_levels=0, norm="none"),
        positions=PositionConfig(centred=False, level_embedding=False),
        encoder=EncoderConfig(attention="dense", ffn_width=2048),
        queries=QueryConfig(num_queries=100, content="zeros", references=False),
        decoder=DecoderConfig(attention="dense", ffn_width=2048, final_norm=True),
        classification="softmax",
    )


def detr_r50_dc5() -> DetectorConfig:
    """DETR with dilated C5: AP 43.3 after 500 epochs (official repository)."""
    return dilated(detr_r50())


def detr_r101() -> DetectorConfig:
    """DETR with ResNet-101: AP 43.5 after 500 epochs (official repository)."""
    return with_backbone(detr_r50(), "resnet101")


def detr_r101_dc5() -> DetectorConfig:
    """DETR with dilated C5 of ResNet-101: AP 44.9 after 500 epochs (official repository)."""
    return with_backbone(detr_r50_dc5(), "resnet101")


def detr_nano() -> DetectorConfig:
    """DETR over one map of stride 16, as small as `deformable-detr-nano`, for tests and studies."""
    nano, detr = deformable_detr_nano(), detr_r50()
    return replace(
        detr,
        backbone=replace(nano.backbone, levels=(4,)),
        neck=replace(detr.neck, width=nano.neck.width),
        encoder=replace(nano.encoder, attention="dense"),
        decoder=replace(nano.decoder, attention="dense", refined=False, final_norm=True),
        input=nano.input,
    )


def with_refinement(config: DetectorConfig) -> DetectorConfig:
    """The same detector with iterative box refinement."""
    return replace(config, decoder=replace(config.decoder, refined=True))


def with_two_stages(config: DetectorConfig) -> DetectorConfig:
    """The same detector with refinement and a first stage that proposes boxes."""
    queries = replace(config.queries, source="two-stage", content="proposal")
    return replace(with_refinement(config), queries=queries)


def single_scale(config: DetectorConfig) -> DetectorConfig:
    """The same detector on the backbone's last map alone."""
    return replace(
        config,
        backbone=replace(config.backbone, levels=config.backbone.levels[-1:]),
        neck=replace(config.neck, num_extra_levels=0),
    )


def dilated(config: DetectorConfig) -> DetectorConfig:
    """The same detector with C5 at stride 16 (DC5)."""
    return replace(config, backbone=replace(config.backbone, dilated=True))


def with_backbone(config: DetectorConfig, name: str) -> DetectorConfig:
    """The same detector on another timm backbone."""
    return replace(config, backbone=replace(config.backbone, name=name))


PRESETS: dict[str, Preset] = {
    function.__name__.replace("_", "-"): function
    for function in (
        deformable_detr_nano,
        deformable_detr_r50,
        deformable_detr_r50_refine,
        deformable_detr_r50_two_stage,
        deformable_detr_r50_single_scale,
        deformable_detr_r50_single_scale_dc5,
        deformable_detr_r101,
        deformable_detr_r101_refine,
        deformable_detr_r101_two_stage,
        deformable_detr_r101_single_scale,
        deformable_detr_r101_single_scale_dc5,
        detr_nano,
        detr_r50,
        detr_r50_dc5,
        detr_r101,
        detr_r101_dc5,
    )
}


def presets() -> list[str]:
    """The names of all presets."""
    return list(PRESETS)


def preset_config(name: str, class_names: Sequence[str] | None = None) -> DetectorConfig:
    """The configuration of a preset, with the given classes instead of COCO's.

    Raises:
        ValueError: If there is no preset of that name.
    """
    if name not in PRESETS:
        raise ValueError(f'there is no preset "{name}": expected one of {", ".join(PRESETS)}.')
    config = PRESETS[name]()
    if class_names is None:
        return config
    return replace(config, class_names=as_class_names(class_names))
