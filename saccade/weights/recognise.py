"""What detector an official state dict holds."""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from saccade.coco_classes import COCO_CLASSES
from saccade.config import DetectorConfig, InputConfig
from saccade.config_json import from_dict, to_dict
from saccade.config_parts import (
    BackboneConfig,
    DecoderConfig,
    EncoderConfig,
    NeckConfig,
    PositionConfig,
    QueryConfig,
)
from saccade.weights.layouts import resnet_name

_ENCODER, _DECODER = "transformer.encoder.layers", "transformer.decoder.layers"


@dataclass(frozen=True)
class _Args:
    """What is read of a checkpoint's ``args``, with the official defaults."""

    dilation: bool | None = None
    nheads: int = 8
    dropout: float = 0.1
    num_queries: int = 300
    pre_norm: bool = False
    class_names: tuple[str, ...] | None = None
    input: InputConfig = field(default_factory=InputConfig)

    def __post_init__(self) -> None:
        if self.nheads < 1:
            raise ValueError(
                f"args.nheads is {self.nheads}: expected more than zero; the file is damaged."
            )


def recognise_official(
    state: Mapping[str, Tensor],
    args: Namespace | None = None,
    preset: DetectorConfig | None = None,
) -> DetectorConfig:
    """Describe the detector from the shapes of its tensors, as far as they tell.

    Heads and dilation leave no trace in shapes, nor do the number of a two-stage detector's
    queries, dropout and the input: they are taken from `args`, else from `preset`, else from the
    official defaults. Dilation has no default where there is one level, because the published
    detectors come both ways.

    Args:
        state: What an official checkpoint holds under ``"model"``.
        args: What it holds under ``"args"``.
        preset: A detector that agrees with the file in what the file does not tell.

    Raises:
        ValueError: If it is no such detector, dilation cannot be known, or `args` holds a value
            of another type.
    """
    stored = _stored_args(args, preset)
    if stored.pre_norm:
        raise ValueError(
            "the file holds a DETR with norms before each layer (--pre_norm): expected one with "
            "norms after each layer, as published."
        )
    if f"{_ENCODER}.0.self_attn.sampling_offsets.weight" in state:
        return _deformable(state, stored)
    if "transformer.decoder.norm.weight" in state and "class_embed.weight" in state:
        return _detr(state, stored)
    first = ", ".join(list(state)[:3])
    raise ValueError(
        f"the file holds neither Deformable DETR nor DETR: it begins with {first}; expected the "
        "names of the official repositories, such as transformer.decoder.layers.0.norm1.weight."
    )


def _stored_args(args: Namespace | None, preset: DetectorConfig | None) -> _Args:
    known: dict[str, Any] = {}
    if preset is not None:
        known = {
            "dilation": preset.backbone.dilated,
            "nheads": preset.encoder.num_heads,
            "dropout": preset.encoder.dropout,
            "num_queries": preset.queries.num_queries,
            "input": to_dict(preset.input),
        }
    if args is not None:
        read = {each.name for each in fields(_Args)}
        known |= {name: value for name, value in vars(args).items() if name in read}
    # Our own additions; other code may store something else under the same names.
    for name, kind in (("class_names", list), ("input", dict)):
        if not isinstance(known.get(name), kind):
            known.pop(name, None)
    return from_dict(_Args, known, "args")


def _deformable(state: Mapping[str, Tensor], stored: _Args) -> DetectorConfig:
    num_levels, width = _shape(state, "transformer.level_embed", 2)
    kernels = [_shape(state, f"input_proj.{level}.0.weight", 4)[3] for level in range(num_levels)]
    num_maps = kernels.count(1)
    heads = stored.nheads
    two_stage = "transformer.enc_output.weight" in state
    num_queries = stored.num_queries
    if not two_stage:
        num_queries = _shape(state, "query_embed.weight", 2)[0]

    def points(weights: str) -> int:
        rows = _shape(state, weights, 2)[0]
        if not num_levels or not rows or rows % (heads * num_levels):
            raise ValueError(
                f"{weights} has {rows} rows: expected a multiple of {heads} heads x {num_levels} "
                "levels; pass the preset that it was trained as."
            )
        return rows // (heads * num_levels)

    encoder, decoder = f"{_ENCODER}.0.self_attn", f"{_DECODER}.0.cross_attn"
    return DetectorConfig(
        class_names=_class_names(_shape(state, "class_embed.0.weight", 2)[0], stored),
        backbone=_backbone(state, stored, num_maps),
        neck=NeckConfig(width=width, num_extra_levels=num_levels - num_maps),
        encoder=EncoderConfig(
            num_layers=_num_layers(state, _ENCODER),
            num_heads=heads,
            num_points=points(f"{encoder}.attention_weights.weight"),
            ffn_width=_shape(state, f"{_ENCODER}.0.linear1.weight", 2)[0],
            dropout=stored.dropout,
        ),
        queries=QueryConfig(
            num_queries=num_queries,
            source="two-stage" if two_stage else "learned",
            content="proposal" if two_stage else "learned",
        ),
        decoder=DecoderConfig(
            num_layers=_num_layers(state, _DECODER),
            num_heads=heads,
            num_points=points(f"{decoder}.attention_weights.weight"),
            ffn_width=_shape(state, f"{_DECODER}.0.linear1.weight", 2)[0],
            dropout=stored.dropout,
            refined="transformer.decoder.bbox_embed.0.layers.0.weight" in state,
        ),
        input=stored.input,
    )


def _detr(state: Mapping[str, Tensor], stored: _Args) -> DetectorConfig:
    num_queries, width = _shape(state, "query_embed.weight", 2)
    heads = stored.nheads
    return DetectorConfig(
        class_names=_class_names(_shape(state, "class_embed.weight", 2)[0] - 1, stored),
        backbone=_backbone(state, stored, num_maps=1),
        neck=NeckConfig(width=width, num_extra_levels=0, norm="none"),
        positions=PositionConfig(centred=False, level_embedding=False),
        encoder=EncoderConfig(
            num_layers=_num_layers(state, _ENCODER),
            attention="dense",
            num_heads=heads,
            ffn_width=_shape(state, f"{_ENCODER}.0.linear1.weight", 2)[0],
            dropout=stored.dropout,
        ),
        queries=QueryConfig(num_queries=num_queries, content="zeros", references=False),
        decoder=DecoderConfig(
            num_layers=_num_layers(state, _DECODER),
            attention="dense",
            num_heads=heads,
            ffn_width=_shape(state, f"{_DECODER}.0.linear1.weight", 2)[0],
            dropout=stored.dropout,
            final_norm=True,
        ),
        input=stored.input,
        classification="softmax",
    )


def _backbone(state: Mapping[str, Tensor], stored: _Args, num_maps: int) -> BackboneConfig:
    if stored.dilation is None and num_maps == 1:
        raise ValueError(
            "the file does not say whether its C5 is dilated (it has no args): pass the preset "
            'that it was trained as, such as preset="detr-r50" or "detr-r50-dc5".'
        )
    return BackboneConfig(
        name=resnet_name(state, "backbone.0.body.layer", 1, ".conv3."),
        levels=tuple(range(6 - num_maps, 6)),
        dilated=bool(stored.dilation),
    )


def _class_names(count: int, stored: _Args) -> tuple[str, ...]:
    names = stored.class_names
    if names is not None:
        if len(names) != count:
            raise ValueError(
                f"the file names {len(names)} classes but its class heads have {count}: expected "
                "as many; pass the file that belongs to these names."
            )
        return names
    if count == len(COCO_CLASSES):
        return COCO_CLASSES
    return tuple(f"class {index}" for index in range(count))


def _num_layers(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({key.split(".")[3] for key in state if key.startswith(f"{prefix}.")})


def _shape(state: Mapping[str, Tensor], key: str, num_dimensions: int) -> tuple[int, ...]:
    if key not in state:
        raise ValueError(
            f"the file lacks the tensor {key}, which every detector of its kind has: it is "
            "damaged or was written by other code than the official one."
        )
    shape = tuple(state[key].shape)
    if len(shape) != num_dimensions:
        raise ValueError(
            f"the tensor {key} has the shape {list(shape)}: expected {num_dimensions} dimensions; "
            "it is damaged or was written by other code than the official one."
        )
    return shape
