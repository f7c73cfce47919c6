"""The detectors that studies compare, at both sizes.

At "r50" they are the published ones. At "nano" those of one study share the small backbone, width,
numbers of layers and of queries. Denoising, which none of the papers has, is off everywhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from saccade.analysis.study.rows import Size
from saccade.config import DetectorConfig
from saccade.config_parts import TERMS, EncoderAttentionKind, QueryConfig, Term
from saccade.presets import (
    preset_config,
    single_scale,
    with_backbone,
    with_encoder_attention,
    with_neck,
    with_refinement,
    without_decoder,
)


def resized(config: DetectorConfig, short_side: int) -> DetectorConfig:
    """The same detector for images of another shorter side, in pixels; the longer one in step."""
    longest = round(config.input.max_side * short_side / config.input.short_side)
    config = replace(config, input=replace(config.input, short_side=short_side, max_side=longest))
    encoder = config.encoder
    if encoder.attention.startswith("synthesizer"):
        # Its map is as large as the largest image.
        return with_encoder_attention(config, encoder.attention, encoder.map_rank)
    return config


def detr(size: Size) -> DetectorConfig:
    """DETR over the backbone's last map, of stride 32."""
    config = preset_config(f"detr-{size}")
    return replace(config, backbone=replace(config.backbone, levels=(5,)))


def detr_dc5(size: Size) -> DetectorConfig:
    """DETR over a map of stride 16; the small backbone has one that needs no dilation."""
    return preset_config("detr-nano" if size == "nano" else "detr-r50-dc5")


def detr_dc5_plus(size: Size) -> DetectorConfig:
    """The paper's fair baseline: focal loss, and as many queries as Deformable DETR."""
    if size == "r50":
        return preset_config("detr-r50-dc5-plus")
    return replace(detr_dc5(size), classification="sigmoid")


def deformable(size: Size) -> DetectorConfig:
    """Deformable DETR: learned queries, no refinement."""
    if size == "r50":
        return preset_config("deformable-detr-r50")
    last = deformable_two_stage(size)
    return replace(
        last,
        queries=QueryConfig(num_queries=last.queries.num_queries),
        decoder=replace(last.decoder, refined=False),
    )


def deformable_refine(size: Size) -> DetectorConfig:
    """+ iterative box refinement."""
    return with_refinement(deformable(size))


def deformable_two_stage(size: Size) -> DetectorConfig:
    """++ two-stage."""
    if size == "r50":
        return preset_config("deformable-detr-r50-two-stage")
    return _without_denoising(preset_config("deformable-detr-nano"))


def points(
    size: Size, num_points: int, across_levels: bool = True, one_scale: bool = False
) -> DetectorConfig:
    """Deformable DETR with K points, each level by itself or only one of them if asked for."""
    config = deformable(size)
    config = replace(
        config,
        encoder=replace(config.encoder, num_points=num_points, across_levels=across_levels),
        decoder=replace(config.decoder, num_points=num_points),
    )
    return single_scale(config) if one_scale else config


def necked(size: Size, kind: Literal["fpn", "bifpn"]) -> DetectorConfig:
    """Deformable DETR with a pyramid."""
    return with_neck(deformable(size), kind)


def on_backbone(size: Size, name: str) -> DetectorConfig:
    """Two-stage Deformable DETR on another backbone."""
    return with_backbone(deformable_two_stage(size), name)


def with_encoder(
    size: Size, kind: EncoderAttentionKind, terms: Sequence[Term] = TERMS, map_rank: int = 0
) -> DetectorConfig:
    """Deformable DETR on one level, its encoder's attention of another kind.

    The level has stride 16 at "nano" and 32 at "r50", where four-term attention over a map of
    stride 16 would take gigabytes.
    """
    config = single_scale(deformable(size))
    if size == "nano":
        config = replace(config, backbone=replace(config.backbone, levels=(4,)))
    config = replace(config, encoder=replace(config.encoder, terms=tuple(terms)))
    return with_encoder_attention(config, kind, map_rank)


def encoder_only(size: Size, build: Callable[[Size], DetectorConfig]) -> DetectorConfig:
    """A detector whose encoder's tokens predict."""
    return without_decoder(build(size))


def tsp(size: Size, kind: Literal["fcos", "rcnn"]) -> DetectorConfig:
    """TSP."""
    return _without_denoising(preset_config(f"tsp-{kind}-{size}"))


def _without_denoising(config: DetectorConfig) -> DetectorConfig:
    return replace(config, denoising=replace(config.denoising, num_queries=0))
