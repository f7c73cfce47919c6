"""The arguments of a small configuration for each architecture; nothing is downloaded."""

from typing import Any

import transformers

WIDTH = 64
SIZE = 128
"""Pixels a side. In smaller images the coarsest map has one token, which GroupNorm cannot use."""

_CHANNELS: dict[str, Any] = {
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 16, 24],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}
_LAST_THREE = ["stage2", "stage3", "stage4"]
_ALL_FOUR = ["stage1", *_LAST_THREE]
_LAYERS: dict[str, Any] = {
    "d_model": WIDTH,
    "encoder_layers": 1,
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_layers": 2,
    "decoder_ffn_dim": 32,
    "decoder_attention_heads": 2,
    "num_queries": 7,
    "num_labels": 3,
}


def arguments_of(architecture: str) -> dict[str, Any]:
    """What the configuration class of an architecture is called with."""
    if architecture == "deformable_detr":
        return {
            **_LAYERS,
            "backbone_config": transformers.ResNetConfig(**_CHANNELS, out_features=_LAST_THREE),
        }
    if architecture in ("lw_detr", "rf_detr"):
        return _plain_transformer_backbone(architecture)
    if architecture in ("grounding_dino", "mm_grounding_dino"):
        layers = {key: value for key, value in _LAYERS.items() if key != "num_labels"}
        text = transformers.BertConfig(**_text_sizes(16))
        return {
            **layers,
            "backbone_config": _swin(out_features=_LAST_THREE),
            "text_config": text,
            "max_text_len": 8,
        }
    if architecture == "omdet_turbo":
        return _omdet_turbo()
    if architecture == "mask2former":
        return {**_segmentation(), "feature_size": WIDTH, "mask_feature_size": WIDTH}
    if architecture == "oneformer":
        return {**_segmentation(), **_oneformer()}
    return _real_time(architecture)


def _real_time(architecture: str) -> dict[str, Any]:
    """The family of RT-DETR."""
    arguments = {
        **_LAYERS,
        "backbone_config": transformers.RTDetrResNetConfig(**_CHANNELS, out_features=_LAST_THREE),
        "encoder_hidden_dim": WIDTH,
        "encoder_in_channels": [8, 16, 24],
        "hidden_expansion": 0.5,
        "decoder_in_channels": [WIDTH] * 3,
    }
    if architecture in ("d_fine", "deimv2"):
        arguments |= {
            "backbone_config": _hgnet(),
            "decoder_n_points": [3, 6, 3],
            "lqe_hidden_dim": 8,
            "max_num_bins": 8,
        }
    if architecture == "pp_doclayout_v2":
        arguments |= {
            "class_thresholds": [0.0] * 3,
            "class_order": [0, 1, 2],
            "reading_order_config": _reading_order(),
        }
    if architecture == "pp_doclayout_v3":
        backbone = transformers.RTDetrResNetConfig(**_CHANNELS, out_features=_ALL_FOUR)
        arguments |= {
            "backbone_config": backbone,
            "mask_feature_channels": [8, 8],
            "x4_feat_dim": 8,
        }
    return arguments


def _hgnet() -> Any:
    return transformers.HGNetV2Config(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 24],
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 8, 8, 16],
        stage_mid_channels=[8] * 4,
        stage_out_channels=[8, 8, 16, 24],
        stage_num_blocks=[1] * 4,
        stage_numb_of_layers=[1] * 4,
        stage_light_block=[False] * 4,
        stage_kernel_size=[3] * 4,
        out_features=_LAST_THREE,
    )


def _reading_order() -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "max_position_embeddings": 16,
        "coordinate_size": 3,
        "shape_size": 2,
        "num_classes": 3,
        "relation_bias_embed_dim": 4,
        "global_pointer_head_size": 4,
    }


def _plain_transformer_backbone(architecture: str) -> dict[str, Any]:
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIZE,
        "patch_size": 16,
        "out_indices": [1, 2],
    }
    arguments = {
        "d_model": WIDTH,
        "decoder_layers": 2,
        "decoder_ffn_dim": 32,
        "decoder_self_attention_heads": 2,
        "decoder_cross_attention_heads": 4,
        "num_queries": 7,
        "group_detr": 2,
        "c2f_num_blocks": 1,
        "num_labels": 3,
    }
    if architecture == "rf_detr":
        backbone = transformers.RfDetrDinov2Config(**sizes, num_windows=2)
        return {**arguments, "backbone_config": backbone}
    backbone = transformers.LwDetrViTConfig(
        **sizes, pretrain_image_size=SIZE, num_windows=4, window_block_indices=[0]
    )
    return {**arguments, "backbone_config": backbone, "projector_scale_factors": [1.0, 2.0]}


def _swin(**outputs: Any) -> Any:
    return transformers.SwinConfig(
        image_size=SIZE,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=2,
        **outputs,
    )


def _text_sizes(length: int) -> dict[str, Any]:
    return {
        "vocab_size": 30,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": length,
    }


def _omdet_turbo() -> dict[str, Any]:
    return {
        "backbone_config": _swin(out_indices=[2, 3, 4]),
        "apply_layernorm_after_vision_backbone": False,
        "text_config": transformers.CLIPTextConfig(
            **_text_sizes(8), projection_dim=16, bos_token_id=0, eos_token_id=1, pad_token_id=2
        ),
        "image_size": SIZE,
        "encoder_in_channels": [16, 32, 64],
        "vision_features_channels": [WIDTH] * 3,
        "encoder_hidden_dim": WIDTH,
        "encoder_attention_heads": 2,
        "encoder_dim_feedforward": 32,
        "decoder_hidden_dim": WIDTH,
        "decoder_num_heads": 2,
        "decoder_num_layers": 2,
        "decoder_dim_feedforward": 32,
        "num_queries": 7,
        "text_projection_in_dim": 16,
        "text_projection_out_dim": 16,
        "class_embed_dim": 16,
        "task_encoder_hidden_dim": 16,
    }


def _segmentation() -> dict[str, Any]:
    return {
        "backbone_config": _swin(out_features=_ALL_FOUR),
        "hidden_dim": WIDTH,
        "encoder_feedforward_dim": 32,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "num_attention_heads": 2,
        "dim_feedforward": 32,
        "num_queries": 7,
        "num_labels": 3,
    }


def _oneformer() -> dict[str, Any]:
    return {
        "conv_dim": WIDTH,
        "mask_dim": WIDTH,
        "text_encoder_width": 16,
        "text_encoder_context_length": 8,
        "text_encoder_num_layers": 1,
        "text_encoder_vocab_size": 30,
        "text_encoder_n_ctx": 4,
        "task_seq_len": 8,
        "query_dec_layers": 1,
    }
