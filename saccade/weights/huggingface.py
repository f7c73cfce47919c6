"""The tensor names of transformers' Deformable DETR and DETR."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from saccade.config import DetectorConfig
from saccade.weights.huggingface_config import huggingface_config, recognise_huggingface
from saccade.weights.keys import KeyMap, Rename, Translated, to_ours, to_theirs
from saccade.weights.layouts import inference_state, layout_kind
from saccade.weights.official import DEFORMABLE_ATTENTION, PROJECTIONS

# transformers 4 calls it so, and version 5 still writes these names.
_BACKBONE = "model.backbone.conv_encoder.model"
_DENSE_ATTENTION = tuple(
    zip(
        ("q_proj", "k_proj", "v_proj", "out_proj"),
        (*PROJECTIONS, "output_projection"),
        strict=True,
    )
)
_FFN = (("fc1", "ffn.expand"), ("fc2", "ffn.contract"), ("final_layer_norm", "ffn.norm"))


def from_huggingface(
    state: Mapping[str, Tensor], hf_config: dict[str, Any]
) -> tuple[DetectorConfig, dict[str, Tensor]]:
    """The detector of a transformers folder, and its tensors under our names.

    Args:
        state: The tensors, named as by versions 4 or 5, with or without tied copies.
        hf_config: The folder's config.json.

    Raises:
        ValueError: If it is another architecture, or has an option that ours lacks.
    """
    config = recognise_huggingface(hf_config, state)
    return config, translate_huggingface(state, config).state


def to_huggingface(
    state: Mapping[str, Tensor], config: DetectorConfig
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors that transformers saves of such a model, and its config.json.

    Raises:
        ValueError: If transformers has no such detector.
    """
    hf_config = huggingface_config(config)
    return to_theirs(inference_state(state), _keys(config), with_copies=False), hf_config


def translate_huggingface(state: Mapping[str, Tensor], config: DetectorConfig) -> Translated:
    """The tensors under our names, and those that stand for nothing of ours."""
    renamed = {_as_version_4(key): tensor for key, tensor in state.items()}
    if config.decoder.refined:
        # Without a second stage transformers ties the class heads, and then stores only the first.
        for i in range(1, config.decoder.num_layers):
            for key in [key for key in renamed if key.startswith("class_embed.0.")]:
                tied = key.replace("class_embed.0", f"class_embed.{i}")
                renamed.setdefault(tied, renamed[key].clone())
    key_map = _keys(config)
    return to_ours(renamed, KeyMap([*key_map.renamed, *_resnet()], key_map.joined, key_map.copies))


def _as_version_4(key: str) -> str:
    if key.startswith("model.backbone.model."):
        key = key.replace("model.backbone.model.", f"{_BACKBONE}.", 1)
    key = key.replace(f"{_BACKBONE}._backbone.", f"{_BACKBONE}.")
    return key.replace(".o_proj.", ".out_proj.").replace(".mlp.fc", ".fc")


def _keys(config: DetectorConfig) -> KeyMap:
    kind = layout_kind(config)
    renamed: list[Rename] = [(_BACKBONE, "backbone.body")]
    for i in range(config.encoder.num_layers):
        theirs, ours = f"model.encoder.layers.{i}", f"encoder.layers.{i}"
        attention = "attention" if kind == "deformable_detr" else "attention.attention"
        rows = DEFORMABLE_ATTENTION if kind == "deformable_detr" else _DENSE_ATTENTION
        renamed += [(f"{theirs}.self_attn.{a}", f"{ours}.{attention}.{b}") for a, b in rows]
        renamed += [(f"{theirs}.self_attn_layer_norm", f"{ours}.norm")]
        renamed += [(f"{theirs}.{a}", f"{ours}.{b}") for a, b in _FFN]
    for i in range(config.decoder.num_layers):
        theirs, ours = f"model.decoder.layers.{i}", f"decoder.layers.{i}"
        attention = "cross_attention" if kind == "deformable_detr" else "cross_attention.attention"
        rows = DEFORMABLE_ATTENTION if kind == "deformable_detr" else _DENSE_ATTENTION
        renamed += [(f"{theirs}.encoder_attn.{a}", f"{ours}.{attention}.{b}") for a, b in rows]
        renamed += [
            (f"{theirs}.self_attn.{a}", f"{ours}.self_attention.{b}") for a, b in _DENSE_ATTENTION
        ]
        renamed += [(f"{theirs}.self_attn_layer_norm", f"{ours}.self_norm")]
        renamed += [(f"{theirs}.encoder_attn_layer_norm", f"{ours}.cross_norm")]
        renamed += [(f"{theirs}.{a}", f"{ours}.{b}") for a, b in _FFN]
    rest = _deformable_rest(config) if kind == "deformable_detr" else _detr_rest()
    return KeyMap([*renamed, *rest.renamed], rest.joined, rest.copies)


def _deformable_rest(config: DetectorConfig) -> KeyMap:
    renamed: list[Rename] = [
        ("model.input_proj", "neck.levels"),
        ("model.level_embed", "positions.level_embedding"),
    ]
    layers = config.decoder.num_layers
    class_heads, box_heads = _head_names(config)
    renamed += [
        (class_heads, "decoder.heads.class_heads"),
        (box_heads, "decoder.heads.box_heads"),
    ]
    if config.queries.source == "two-stage":
        renamed += [
            ("model.enc_output", "queries.token_projection.0"),
            ("model.enc_output_norm", "queries.token_projection.1"),
            ("model.pos_trans", "queries.box_projection.0"),
            ("model.pos_trans_norm", "queries.box_projection.1"),
            (f"{class_heads}.{layers}", "queries.class_head"),
            (f"{box_heads}.{layers}", "queries.box_head"),
        ]
        return KeyMap(renamed, (), [("class_embed", class_heads), ("bbox_embed", box_heads)])
    renamed += [("model.reference_points", "queries.reference_points")]
    parts = ("queries.positions.weight", "queries.content.weight")
    joined = [("model.query_position_embeddings.weight", parts, 1)]
    if config.decoder.refined:
        return KeyMap(renamed, joined, [("bbox_embed", box_heads)])
    heads = (class_heads, box_heads)
    copies = [(f"{head}.{i}", f"{head}.0") for i in range(1, layers) for head in heads]
    return KeyMap(renamed, joined, copies)


def _head_names(config: DetectorConfig) -> tuple[str, str]:
    """Class and box heads where transformers stores them; elsewhere it keeps tied copies."""
    if config.queries.source == "two-stage":
        return "model.decoder.class_embed", "model.decoder.bbox_embed"
    return "class_embed", "model.decoder.bbox_embed" if config.decoder.refined else "bbox_embed"


def _detr_rest() -> KeyMap:
    return KeyMap(
        [
            ("model.input_projection", "neck.levels.0.0"),
            ("model.query_position_embeddings", "queries.positions"),
            ("model.decoder.layernorm", "decoder.norm"),
            ("class_labels_classifier", "decoder.heads.class_heads.0"),
            ("bbox_predictor", "decoder.heads.box_heads.0"),
        ]
    )


def _resnet() -> list[Rename]:
    """The names of transformers' own ResNet, up to ResNet-152's 36 blocks in a stage."""
    ours = "backbone.body"
    renamed = [
        (f"{_BACKBONE}.embedder.embedder.convolution", f"{ours}.conv1"),
        (f"{_BACKBONE}.embedder.embedder.normalization", f"{ours}.bn1"),
    ]
    for stage in range(4):
        for block in range(36):
            theirs = f"{_BACKBONE}.encoder.stages.{stage}.layers.{block}"
            inner = f"{ours}.layer{stage + 1}.{block}"
            renamed += [
                (f"{theirs}.shortcut.convolution", f"{inner}.downsample.0"),
                (f"{theirs}.shortcut.normalization", f"{inner}.downsample.1"),
            ]
            for i in range(3):
                renamed += [
                    (f"{theirs}.layer.{i}.convolution", f"{inner}.conv{i + 1}"),
                    (f"{theirs}.layer.{i}.normalization", f"{inner}.bn{i + 1}"),
                ]
    return renamed
