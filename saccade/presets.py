"""Named detectors: each function returns one complete configuration.

The published AP in each docstring is COCO val2017's, as its source gives it; it needs the
published weights or the published training.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from saccade.coco_classes import COCO_CLASSES
from saccade.config import DenoisingConfig, DetectorConfig, InputConfig, as_class_names
from saccade.config_parts import (
    BackboneConfig,
    DecoderConfig,
    EncoderAttentionKind,
    EncoderConfig,
    NeckConfig,
    PositionConfig,
    QueryConfig,
    SelectionConfig,
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


def deformable_detr_r50_dcn_two_stage() -> DetectorConfig:
    """++ two-stage, ResNet-50 with modulated deformable convolutions; no AP is published."""
    return with_deformable_convolutions(deformable_detr_r50_two_stage())


def deformable_detr_x101() -> DetectorConfig:
    """Deformable DETR with ResNeXt-101 64x4d; no AP is published without the two steps."""
    return with_backbone(deformable_detr_r50(), "resnext101_64x4d")


def deformable_detr_x101_refine() -> DetectorConfig:
    """+ iterative box refinement, ResNeXt-101 64x4d; no AP is published for this step alone."""
    return with_backbone(deformable_detr_r50_refine(), "resnext101_64x4d")


def deformable_detr_x101_two_stage() -> DetectorConfig:
    """++ two-stage, ResNeXt-101 64x4d: AP 49.0 on test-dev (paper, table 3)."""
    return with_backbone(deformable_detr_r50_two_stage(), "resnext101_64x4d")


def deformable_detr_x101_dcn_two_stage() -> DetectorConfig:
    """++ two-stage, X101 with deformable convolutions: AP 50.1 on test-dev (paper, table 3)."""
    return with_deformable_convolutions(deformable_detr_x101_two_stage())


def deformable_detr_x101_single_scale() -> DetectorConfig:
    """One level, C5 of ResNeXt-101 64x4d; no AP is published."""
    return with_backbone(deformable_detr_r50_single_scale(), "resnext101_64x4d")


def deformable_detr_x101_single_scale_dc5() -> DetectorConfig:
    """One level, dilated C5 of ResNeXt-101 64x4d; no AP is published."""
    return with_backbone(deformable_detr_r50_single_scale_dc5(), "resnext101_64x4d")


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


def deformable_detr_plain_nano() -> DetectorConfig:
    """Deformable DETR without its two steps, as small as `deformable-detr-nano`."""
    nano = deformable_detr_nano()
    return replace(
        nano,
        queries=replace(nano.queries, source="learned"),
        decoder=replace(nano.decoder, refined=False),
        denoising=replace(nano.denoising, num_queries=0),
    )


def deformable_detr_refine_nano() -> DetectorConfig:
    """+ iterative box refinement, as small as `deformable-detr-nano`."""
    return with_refinement(deformable_detr_plain_nano())


def deformable_detr_single_scale_nano() -> DetectorConfig:
    """One level, of stride 16, as small as `deformable-detr-nano`."""
    plain = deformable_detr_plain_nano()
    return replace(plain, backbone=replace(plain.backbone, levels=(4,)))


def deformable_detr_dcn_nano() -> DetectorConfig:
    """`deformable-detr-nano` with modulated deformable convolutions."""
    return with_deformable_convolutions(deformable_detr_nano())


def deformable_detr_fpn_nano() -> DetectorConfig:
    """`deformable-detr-nano` on a feature pyramid."""
    return with_neck(deformable_detr_nano(), "fpn")


def deformable_detr_bifpn_nano() -> DetectorConfig:
    """`deformable-detr-nano` on a BiFPN."""
    return with_neck(deformable_detr_nano(), "bifpn")


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


def detr_r50_dc5_plus() -> DetectorConfig:
    """DETR-DC5+, focal loss and 300 queries: AP 36.2 after 50 epochs (Deformable DETR, table 1)."""
    config = detr_r50_dc5()
    queries = replace(config.queries, num_queries=300)
    return replace(config, queries=queries, classification="sigmoid")


def encoder_only_detr_r50() -> DetectorConfig:
    """DETR whose encoder tokens predict, without a decoder (TSP, section 3.3): no AP is published
    in a table."""
    return without_decoder(detr_r50())


def encoder_only_detr_nano() -> DetectorConfig:
    """Encoder-only DETR as small as `detr-nano`, for tests and studies."""
    return without_decoder(detr_nano())


def deformable_detr_r50_fpn() -> DetectorConfig:
    """Deformable DETR on a feature pyramid: AP 43.8 after 50 epochs (paper, table 2)."""
    return with_neck(deformable_detr_r50(), "fpn")


def deformable_detr_r50_bifpn() -> DetectorConfig:
    """Deformable DETR on a BiFPN: AP 43.9 after 50 epochs (paper, table 2)."""
    return with_neck(deformable_detr_r50(), "bifpn")


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


def detr_plus_nano() -> DetectorConfig:
    """DETR-DC5+, focal loss and one map of stride 16, as small as `detr-nano`."""
    return replace(detr_nano(), classification="sigmoid")


def synthesizer_dense_detr_r50() -> DetectorConfig:
    """DETR whose encoder makes its attention maps from the queries alone (Synthesizer, section
    3.1): no AP is published."""
    return with_encoder_attention(detr_r50(), "synthesizer-dense")


def synthesizer_dense_detr_nano() -> DetectorConfig:
    """`synthesizer-dense-detr-r50` as small as `detr-nano`, for tests and studies."""
    return with_encoder_attention(detr_nano(), "synthesizer-dense")


def synthesizer_random_detr_r50() -> DetectorConfig:
    """DETR whose encoder learns its attention maps outright: no AP is published.

    They are factorised, of the paper's rank (Synthesizer, section 3.2): as they are, they would
    be 149 million numbers, more than three times the rest of the detector.
    """
    return with_encoder_attention(detr_r50(), "synthesizer-random", map_rank=8)


def synthesizer_random_detr_nano() -> DetectorConfig:
    """`synthesizer-random-detr-r50` as small as `detr-nano`, for tests and studies."""
    return with_encoder_attention(detr_nano(), "synthesizer-random", map_rank=8)


def four_term_detr_r50() -> DetectorConfig:
    """DETR whose encoder weighs keys by content and relative position in four terms (An Empirical
    Study of Spatial Attention Mechanisms, Eq. 2): no AP is published for DETR.

    In Faster R-CNN all four reach AP 40.0, the key's term alone 39.1 (mmdetection,
    configs/empirical_attention).
    """
    return with_encoder_attention(detr_r50(), "four-term")


def four_term_detr_nano() -> DetectorConfig:
    """`four-term-detr-r50` as small as `detr-nano`, for tests and studies."""
    return with_encoder_attention(detr_nano(), "four-term")


def tsp_fcos_r50() -> DetectorConfig:
    """TSP-FCOS: AP 43.1 after 36 epochs (as cited in Conditional DETR's tables).

    The pyramid is this library's: levels 6 and 7 start from C5, and group norms take the place of
    batch norms over several devices. As in the paper, any class makes a feature interesting, and a
    point may answer for every object of its level that contains it. The official repository tells
    classes apart there, and assigns as FCOS does: a point to the smallest such object, and only
    within 1.5 strides of its centre. `saccade.recipes.tsp` names what training does otherwise.
    """
    return DetectorConfig(
        class_names=COCO_CLASSES,
        neck=NeckConfig(kind="fpn", num_extra_levels=2),
        selection=SelectionConfig(kind="fcos"),
        encoder=EncoderConfig(attention="dense", ffn_width=2048, pre_norm=True),
        queries=QueryConfig(source="tokens"),
        decoder=DecoderConfig(num_layers=0, final_norm=True),
    )


def tsp_rcnn_r50() -> DetectorConfig:
    """TSP-RCNN: AP 43.8 after 36 epochs (as cited in Conditional DETR's tables).

    Those give 45.0 after 96 epochs to TSP-RCNN+, which is not built. The set loss is focal, as in
    TSP-FCOS; the official repository trains a softmax here.
    """
    config = tsp_fcos_r50()
    return replace(
        config,
        backbone=replace(config.backbone, levels=(2, 3, 4, 5)),
        selection=SelectionConfig(kind="rcnn", num_convolutions=2),
    )


def tsp_fcos_nano() -> DetectorConfig:
    """`tsp-fcos-r50` as small as `deformable-detr-nano`, for tests and studies.

    An object may contain a hundred points, which training selects first: 300 tokens leave room for
    background beside a few objects.
    """
    return _small_sparse(tsp_fcos_r50(), levels=(3, 4, 5), num_tokens=300)


def tsp_rcnn_nano() -> DetectorConfig:
    """`tsp-rcnn-r50` as small as `deformable-detr-nano`, for tests and studies."""
    return _small_sparse(tsp_rcnn_r50(), levels=(2, 3, 4, 5), num_tokens=100)


def _small_sparse(
    config: DetectorConfig, levels: tuple[int, ...], num_tokens: int
) -> DetectorConfig:
    nano = deformable_detr_nano()
    return replace(
        config,
        backbone=replace(nano.backbone, levels=levels),
        neck=replace(config.neck, width=nano.neck.width // 2, num_extra_levels=0),
        selection=replace(
            config.selection, num_tokens=num_tokens, num_convolutions=1, region_size=4
        ),
        encoder=replace(
            config.encoder,
            num_layers=nano.encoder.num_layers,
            ffn_width=nano.encoder.ffn_width,
            dropout=0.0,
        ),
        input=nano.input,
    )


def with_encoder_attention(
    config: DetectorConfig, kind: EncoderAttentionKind, map_rank: int = 0
) -> DetectorConfig:
    """The same detector with another attention in its encoder.

    The map of a Synthesizer becomes as large as the last stage of the largest image.
    """
    stride = 2 ** (config.backbone.levels[-1] - config.backbone.dilated)
    side = -(-config.input.max_side // stride)
    encoder = replace(config.encoder, attention=kind, map_size=(side, side), map_rank=map_rank)
    return replace(config, encoder=encoder)


def without_decoder(config: DetectorConfig) -> DetectorConfig:
    """The same detector, its encoder's tokens predicting."""
    return replace(
        config,
        queries=replace(config.queries, source="tokens"),
        decoder=replace(config.decoder, num_layers=0),
    )


def with_deformable_convolutions(config: DetectorConfig) -> DetectorConfig:
    """The same detector, the 3x3 convolutions of C3-C5 modulated deformable ones."""
    return replace(config, backbone=replace(config.backbone, deformable_levels=(3, 4, 5)))


def with_neck(
    config: DetectorConfig, kind: Literal["projection", "fpn", "bifpn"]
) -> DetectorConfig:
    """The same detector with another neck."""
    return replace(config, neck=replace(config.neck, kind=kind))


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
        deformable_detr_plain_nano,
        deformable_detr_refine_nano,
        deformable_detr_single_scale_nano,
        deformable_detr_dcn_nano,
        deformable_detr_fpn_nano,
        deformable_detr_bifpn_nano,
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
        deformable_detr_x101,
        deformable_detr_x101_refine,
        deformable_detr_x101_two_stage,
        deformable_detr_x101_dcn_two_stage,
        deformable_detr_x101_single_scale,
        deformable_detr_x101_single_scale_dc5,
        deformable_detr_r50_dcn_two_stage,
        deformable_detr_r50_fpn,
        deformable_detr_r50_bifpn,
        detr_nano,
        detr_plus_nano,
        detr_r50,
        detr_r50_dc5,
        detr_r50_dc5_plus,
        detr_r101,
        detr_r101_dc5,
        encoder_only_detr_r50,
        encoder_only_detr_nano,
        synthesizer_dense_detr_r50,
        synthesizer_dense_detr_nano,
        synthesizer_random_detr_r50,
        synthesizer_random_detr_nano,
        four_term_detr_r50,
        four_term_detr_nano,
        tsp_fcos_r50,
        tsp_fcos_nano,
        tsp_rcnn_r50,
        tsp_rcnn_nano,
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
