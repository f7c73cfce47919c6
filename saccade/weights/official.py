"""The tensor names of the official repositories: Deformable DETR's and DETR's."""

from argparse import Namespace
from collections.abc import Mapping

from torch import Tensor

from saccade.config import DetectorConfig
from saccade.config_json import to_dict
from saccade.weights.keys import Join, KeyMap, Rename, to_ours, to_theirs
from saccade.weights.layouts import RESNETS, check_shared, inference_state, layout_kind

DEFORMABLE_ATTENTION = (
    ("sampling_offsets", "sampling_offsets"),
    ("attention_weights", "attention_weights"),
    ("value_proj", "value_projection"),
    ("output_proj", "output_projection"),
)
PROJECTIONS = ("query_projection", "key_projection", "value_projection")
_FFN = (("linear1", "ffn.expand"), ("linear2", "ffn.contract"))


def from_official(state: Mapping[str, Tensor], config: DetectorConfig) -> dict[str, Tensor]:
    """The tensors of an official state dict under our names.

    Args:
        state: What an official checkpoint holds under ``"model"``.
        config: What `recognise_official` makes of it.
    """
    return to_ours(state, official_keys(config)).state


def to_official(state: Mapping[str, Tensor], config: DetectorConfig) -> dict[str, Tensor]:
    """The inverse of `from_official`, with every repetition that the official models store.

    Raises:
        ValueError: If the official models have no such detector.
    """
    key_map = official_keys(config)
    check_shared(config, ("num_heads", "ffn_width", "dropout"), "official")
    levels = (5,) if config.num_levels == 1 else (3, 4, 5)
    if config.backbone.levels != levels:
        raise ValueError(
            f"backbone.levels is {config.backbone.levels}, but the official models use {levels} "
            f"for {config.num_levels} levels: save the detector in its own layout instead."
        )
    return to_theirs(inference_state(state), key_map, with_copies=True)


def official_args(config: DetectorConfig) -> Namespace:
    """What the official training scripts store as ``"args"``, as far as it describes the model.

    ``class_names`` and ``input`` are our additions; the official scripts ignore them.
    """
    return Namespace(
        backbone=config.backbone.name,
        dilation=config.backbone.dilated,
        position_embedding="sine",
        num_feature_levels=config.num_levels,
        enc_layers=config.encoder.num_layers,
        dec_layers=config.decoder.num_layers,
        dim_feedforward=config.encoder.ffn_width,
        hidden_dim=config.neck.width,
        dropout=config.encoder.dropout,
        nheads=config.encoder.num_heads,
        num_queries=config.queries.num_queries,
        enc_n_points=config.encoder.num_points,
        dec_n_points=config.decoder.num_points,
        with_box_refine=config.decoder.refined,
        two_stage=config.queries.source == "two-stage",
        pre_norm=False,
        masks=False,
        class_names=list(config.class_names),
        input=to_dict(config.input),
    )


def official_keys(config: DetectorConfig) -> KeyMap:
    """The key map of one detector.

    Raises:
        ValueError: If the official models have no such detector.
    """
    kind = layout_kind(config)
    if config.backbone.name not in RESNETS.values():
        raise ValueError(
            f'backbone.name is "{config.backbone.name}", but the official models are built on '
            f"{', '.join(RESNETS.values())}; save the detector in its own layout instead."
        )
    return _deformable_keys(config) if kind == "deformable_detr" else _detr_keys(config)


def _deformable_keys(config: DetectorConfig) -> KeyMap:
    renamed: list[Rename] = [
        ("backbone.0.body", "backbone.body"),
        ("input_proj", "neck.levels"),
        ("transformer.level_embed", "positions.level_embedding"),
    ]
    joined: list[Join] = []
    for i in range(config.encoder.num_layers):
        theirs, ours = f"transformer.encoder.layers.{i}", f"encoder.layers.{i}"
        renamed += [
            (f"{theirs}.self_attn.{a}", f"{ours}.attention.{b}") for a, b in DEFORMABLE_ATTENTION
        ]
        renamed += [(f"{theirs}.norm1", f"{ours}.norm"), (f"{theirs}.norm2", f"{ours}.ffn.norm")]
        renamed += [(f"{theirs}.{a}", f"{ours}.{b}") for a, b in _FFN]
    for i in range(config.decoder.num_layers):
        theirs, ours = f"transformer.decoder.layers.{i}", f"decoder.layers.{i}"
        renamed += [
            (f"{theirs}.cross_attn.{a}", f"{ours}.cross_attention.{b}")
            for a, b in DEFORMABLE_ATTENTION
        ]
        # The official layer counts its norms in the order it creates them, not in that it uses.
        renamed += [(f"{theirs}.norm1", f"{ours}.cross_norm")]
        renamed += [(f"{theirs}.norm2", f"{ours}.self_norm")]
        renamed += [(f"{theirs}.norm3", f"{ours}.ffn.norm")]
        renamed += [(f"{theirs}.{a}", f"{ours}.{b}") for a, b in _FFN]
        _add_dense(renamed, joined, f"{theirs}.self_attn", f"{ours}.self_attention")
    two_stage = config.queries.source == "two-stage"
    if two_stage:
        renamed += [
            ("transformer.enc_output", "queries.token_projection.0"),
            ("transformer.enc_output_norm", "queries.token_projection.1"),
            ("transformer.pos_trans", "queries.box_projection.0"),
            ("transformer.pos_trans_norm", "queries.box_projection.1"),
            (f"class_embed.{config.decoder.num_layers}", "queries.class_head"),
            (f"bbox_embed.{config.decoder.num_layers}", "queries.box_head"),
        ]
    else:
        renamed += [("transformer.reference_points", "queries.reference_points")]
        parts = ("queries.positions.weight", "queries.content.weight")
        joined += [("query_embed.weight", parts, 1)]
    renamed += [
        ("class_embed", "decoder.heads.class_heads"),
        ("bbox_embed", "decoder.heads.box_heads"),
    ]
    return KeyMap(renamed, joined, _repeated_heads(config))


def _repeated_heads(config: DetectorConfig) -> list[tuple[str, str]]:
    """Shared heads are stored once per layer; refinement's once more inside the decoder."""
    layers = config.decoder.num_layers
    if not config.decoder.refined:
        heads = ("class_embed", "bbox_embed")
        return [(f"{head}.{i}", f"{head}.0") for i in range(1, layers) for head in heads]
    if config.queries.source == "learned":
        return [("transformer.decoder.bbox_embed", "bbox_embed")]
    return [(f"transformer.decoder.{head}", head) for head in ("bbox_embed", "class_embed")]


def _detr_keys(config: DetectorConfig) -> KeyMap:
    renamed: list[Rename] = [
        ("backbone.0.body", "backbone.body"),
        ("input_proj", "neck.levels.0.0"),
        ("query_embed", "queries.positions"),
        ("transformer.decoder.norm", "decoder.norm"),
        ("class_embed", "decoder.heads.class_heads.0"),
        ("bbox_embed", "decoder.heads.box_heads.0"),
    ]
    joined: list[Join] = []
    for i in range(config.encoder.num_layers):
        theirs, ours = f"transformer.encoder.layers.{i}", f"encoder.layers.{i}"
        renamed += [(f"{theirs}.norm1", f"{ours}.norm"), (f"{theirs}.norm2", f"{ours}.ffn.norm")]
        renamed += [(f"{theirs}.{a}", f"{ours}.{b}") for a, b in _FFN]
        _add_dense(renamed, joined, f"{theirs}.self_attn", f"{ours}.attention.attention")
    for i in range(config.decoder.num_layers):
        theirs, ours = f"transformer.decoder.layers.{i}", f"decoder.layers.{i}"
        renamed += [(f"{theirs}.norm1", f"{ours}.self_norm")]
        renamed += [(f"{theirs}.norm2", f"{ours}.cross_norm")]
        renamed += [(f"{theirs}.norm3", f"{ours}.ffn.norm")]
        renamed += [(f"{theirs}.{a}", f"{ours}.{b}") for a, b in _FFN]
        _add_dense(renamed, joined, f"{theirs}.self_attn", f"{ours}.self_attention")
        _add_dense(renamed, joined, f"{theirs}.multihead_attn", f"{ours}.cross_attention.attention")
    return KeyMap(renamed, joined)


def _add_dense(
    renamed: list[Rename],
    joined: list[Join],
    theirs: str,
    ours: str,
) -> None:
    renamed.append((f"{theirs}.out_proj", f"{ours}.output_projection"))
    for leaf in ("weight", "bias"):
        parts = tuple(f"{ours}.{projection}.{leaf}" for projection in PROJECTIONS)
        joined.append((f"{theirs}.in_proj_{leaf}", parts, 0))
