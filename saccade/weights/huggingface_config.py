"""Our configurations as config.json of transformers, and back."""

from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor

from saccade.coco_classes import COCO_CLASSES
from saccade.config import (
    BackboneConfig,
    DecoderConfig,
    DetectorConfig,
    EncoderConfig,
    NeckConfig,
    PositionConfig,
    QueryConfig,
)
from saccade.weights.layouts import layout_kind, resnet_name

_ARCHITECTURES = {
    "deformable_detr": "DeformableDetrForObjectDetection",
    "detr": "DetrForObjectDetection",
}
_REQUIRED = {"position_embedding_type": "sine", "activation_function": "relu"}


def recognise_huggingface(
    hf_config: Mapping[str, Any], state: Mapping[str, Tensor]
) -> DetectorConfig:
    """The detector that a config.json describes; absent values take transformers' defaults.

    Args:
        hf_config: The file's content.
        state: The tensors beside it, which tell the blocks of transformers' own ResNet and the
            number of classes.

    Raises:
        ValueError: If it is another architecture, or has an option that ours lacks.
    """
    kind = hf_config.get("model_type")
    if kind not in _ARCHITECTURES:
        raise ValueError(
            f"config.json says model_type {kind!r}: expected one of "
            f"{', '.join(map(repr, _ARCHITECTURES))}."
        )
    for name, expected in _REQUIRED.items():
        if hf_config.get(name, expected) != expected:
            raise ValueError(
                f"config.json says {name} {hf_config[name]!r}: only {expected!r} is supported."
            )
    return _deformable(hf_config, state) if kind == "deformable_detr" else _detr(hf_config, state)


def _deformable(hf: Mapping[str, Any], state: Mapping[str, Tensor]) -> DetectorConfig:
    num_levels = hf.get("num_feature_levels", 4)
    backbone = _backbone(hf, state, [2, 3, 4] if num_levels > 1 else [4])
    two_stage = hf.get("two_stage", False)
    count = hf.get("two_stage_num_proposals" if two_stage else "num_queries", 300)
    return DetectorConfig(
        class_names=_class_names(hf, state, ("class_embed.0.weight",), 0),
        backbone=backbone,
        neck=NeckConfig(
            width=hf.get("d_model", 256), num_extra_levels=num_levels - len(backbone.levels)
        ),
        encoder=EncoderConfig(
            num_layers=hf.get("encoder_layers", 6),
            num_heads=hf.get("encoder_attention_heads", 8),
            num_points=hf.get("encoder_n_points", 4),
            ffn_width=hf.get("encoder_ffn_dim", 1024),
            dropout=hf.get("dropout", 0.1),
        ),
        queries=QueryConfig(
            num_queries=count,
            source="two-stage" if two_stage else "learned",
            content="proposal" if two_stage else "learned",
        ),
        decoder=DecoderConfig(
            num_layers=hf.get("decoder_layers", 6),
            num_heads=hf.get("decoder_attention_heads", 8),
            num_points=hf.get("decoder_n_points", 4),
            ffn_width=hf.get("decoder_ffn_dim", 1024),
            dropout=hf.get("dropout", 0.1),
            refined=hf.get("with_box_refine", False),
        ),
    )
