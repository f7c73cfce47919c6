"""The studies, row by row, with the figures that are published."""

from functools import partial

from saccade.analysis.study.detectors import (
    deformable,
    deformable_refine,
    deformable_two_stage,
    detr,
    detr_dc5,
    detr_dc5_plus,
    encoder_only,
    necked,
    on_backbone,
    points,
    tsp,
    with_encoder,
)
from saccade.analysis.study.rows import SIZES, Published, Row, Size, Study
from saccade.config_parts import TERMS

_TABLE_1 = "Deformable DETR, table 1, val2017"
_TABLE_2 = "Deformable DETR, table 2, val2017"
_TABLE_3 = "Deformable DETR, table 3, test-dev"
_TSP = "TSP, as Conditional DETR's tables repeat it, val2017"
_TERMS = "mmdetection, empirical_attention, Faster R-CNN, val2017"


def _on_backbone(name: str, *numbers: float, sizes: tuple[Size, ...] = SIZES) -> Row:
    published = Published(_TABLE_3, 50, numbers) if numbers else None
    return Row(name, name, partial(on_backbone, name=name), published, sizes=sizes)


_DETR_DC5 = Published(_TABLE_1, 500, (43.3, 63.1, 45.9, 22.5, 47.3, 61.1))
_DEFORMABLE = Published(_TABLE_1, 50, (43.8, 62.6, 47.7, 26.4, 47.1, 58.0))

CONVERGENCE = Study(
    "convergence",
    "How fast detectors learn",
    "How many epochs does each detector need? DETR is given ten times as many as Deformable DETR, "
    "500 against 50 in the paper (Deformable DETR, table 1).",
    (
        Row(
            "detr",
            "DETR",
            detr,
            Published(_TABLE_1, 500, (42.0, 62.4, 44.2, 20.5, 45.8, 61.1)),
            times=10,
        ),
        Row("detr-dc5", "DETR-DC5", detr_dc5, _DETR_DC5, times=10),
        Row(
            "detr-dc5-short",
            "DETR-DC5, a tenth as long",
            detr_dc5,
            Published(_TABLE_1, 50, (35.3, 55.7, 36.8, 15.2, 37.5, 53.6)),
        ),
        Row(
            "detr-dc5-plus",
            "DETR-DC5+",
            detr_dc5_plus,
            Published(_TABLE_1, 50, (36.2, 57.0, 37.4, 16.3, 39.2, 53.9)),
        ),
        Row("deformable", "Deformable DETR", deformable, _DEFORMABLE),
        Row(
            "deformable-refine",
            "+ box refinement",
            deformable_refine,
            Published(_TABLE_1, 50, (45.4, 64.7, 49.0, 26.8, 48.3, 61.7)),
        ),
        Row(
            "deformable-two-stage",
            "++ two-stage",
            deformable_two_stage,
            Published(_TABLE_1, 50, (46.2, 65.2, 50.0, 28.8, 49.2, 61.7)),
        ),
    ),
)

ABLATION = Study(
    "ablation",
    "What each part of Deformable DETR adds",
    "What do several scales, K sampled points, attention across scales and a pyramid add to each "
    "other? (Deformable DETR, table 2)",
    (
        Row(
            "one-scale-k1",
            "one scale, K = 1",
            partial(points, num_points=1, one_scale=True),
            Published(_TABLE_2, 50, (39.7, 60.1, 42.4, 21.2, 44.3, 56.0)),
        ),
        Row(
            "scales-k1",
            "several scales, K = 1",
            partial(points, num_points=1, across_levels=False),
            Published(_TABLE_2, 50, (41.4, 60.9, 44.9, 24.1, 44.6, 56.1)),
        ),
        Row(
            "scales-k4",
            "several scales, K = 4",
            partial(points, num_points=4, across_levels=False),
            Published(_TABLE_2, 50, (42.3, 61.4, 46.0, 24.8, 45.1, 56.3)),
        ),
        Row(
            "across-scales",
            "+ attention across scales",
            deformable,
            Published(_TABLE_2, 50, (43.8, 62.6, 47.7, 26.4, 47.1, 58.0)),
        ),
        Row(
            "fpn",
            "++ FPN",
            partial(necked, kind="fpn"),
            Published(_TABLE_2, 50, (43.8, 62.6, 47.8, 26.5, 47.3, 58.1)),
        ),
        Row(
            "bifpn",
            "++ BiFPN",
            partial(necked, kind="bifpn"),
            Published(_TABLE_2, 50, (43.9, 62.5, 47.7, 25.6, 47.4, 57.7)),
        ),
    ),
)

BACKBONES = Study(
    "backbones",
    "Deformable DETR on other backbones",
    "What does the backbone add under the same two-stage Deformable DETR? At the size nano all of "
    "them start from random weights, at r50 from timm's. (Deformable DETR, table 3)",
    (
        *(_on_backbone(name, sizes=("nano",)) for name in ("small-resnet", "resnet10t")),
        _on_backbone("resnet18"),
        *(
            _on_backbone(name, sizes=("nano",))
            for name in ("mobilenetv3_small_100", "efficientnet_lite0", "convnext_atto")
        ),
        _on_backbone("resnet50", 46.9, 66.4, 50.8, 27.7, 49.7, 59.9, sizes=("r50",)),
        _on_backbone("resnet101", 48.7, 68.1, 52.9, 29.1, 51.5, 62.0, sizes=("r50",)),
        _on_backbone("resnext101_64x4d", 49.0, 68.5, 53.2, 29.7, 51.7, 62.8, sizes=("r50",)),
        *(
            _on_backbone(name, sizes=("r50",))
            for name in (
                "mobilenetv3_large_100",
                "efficientnet_b0",
                "convnext_tiny",
                "swin_tiny_patch4_window7_224",
            )
        ),
    ),
)

ATTENTION = Study(
    "attention",
    "What the encoder attends by",
    "Does the encoder's attention need keys, and which terms of it matter? The encoder of one "
    "single-scale Deformable DETR is exchanged, all else stays. (Synthesizer; An Empirical Study "
    "of Spatial Attention Mechanisms, table 1)",
    (
        Row("dense", "dense", partial(with_encoder, kind="dense")),
        Row(
            "synthesizer-dense",
            "Synthesizer, dense",
            partial(with_encoder, kind="synthesizer-dense"),
        ),
        Row(
            "synthesizer-random",
            "Synthesizer, random, rank 8",
            partial(with_encoder, kind="synthesizer-random", map_rank=8),
        ),
        Row(
            "four-term",
            "all four terms",
            partial(with_encoder, kind="four-term"),
            Published(_TERMS, 12, (40.0,)),
        ),
        *(
            Row(
                f"term-{term}",
                f"{term} alone",
                partial(with_encoder, kind="four-term", terms=(term,)),
                Published(_TERMS, 12, (39.1,)) if term == "key" else None,
            )
            for term in TERMS
        ),
        Row("deformable", "deformable", partial(with_encoder, kind="deformable")),
    ),
)

DECODER = Study(
    "decoder",
    "With and without a decoder",
    "Is the decoder what makes DETR slow, and is one needed at all? (TSP, section 3)",
    (
        Row("detr-dc5", "DETR-DC5", detr_dc5, _DETR_DC5),
        Row("encoder-only", "encoder-only DETR-DC5", partial(encoder_only, build=detr_dc5)),
        Row("deformable", "Deformable DETR", deformable, _DEFORMABLE),
        Row(
            "deformable-encoder-only",
            "encoder-only Deformable DETR",
            partial(encoder_only, build=deformable),
        ),
        Row(
            "tsp-fcos",
            "TSP-FCOS",
            partial(tsp, kind="fcos"),
            Published(_TSP, 36, (43.1, 62.3, 47.0, 26.6, 46.8, 55.9)),
        ),
        Row(
            "tsp-rcnn",
            "TSP-RCNN",
            partial(tsp, kind="rcnn"),
            Published(_TSP, 36, (43.8, 63.3, 48.3, 28.6, 46.9, 55.7)),
        ),
    ),
)

STUDIES = {study.name: study for study in (CONVERGENCE, ABLATION, BACKBONES, ATTENTION, DECODER)}
