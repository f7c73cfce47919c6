"""Our configurations as config.json of transformers, and back."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import timm
import torch
from torch import Tensor

from saccade.config import DetectorConfig
from saccade.config_parts import (
    BackboneConfig,
    DecoderConfig,
    EncoderConfig,
    NeckConfig,
    PositionConfig,
    QueryConfig,
)
from saccade.weights.huggingface_fields import (
    DETR_DEFAULTS,
    BackboneFields,
    DetectorFields,
    read_fields,
)
from saccade.weights.layouts import Kind, check_shared, layout_kind, resnet_name

_ARCHITECTURES: dict[Kind, str] = {
    "deformable_detr": "DeformableDetrForObjectDetection",
    "detr": "DetrForObjectDetection",
}
_REQUIRED = {"position_embedding_type": "sine", "activation_function": "relu"}
_STEM = "embedder.embedder.convolution.weight"


def recognise_huggingface(
    hf_config: Mapping[str, Any], state: Mapping[str, Tensor]
) -> DetectorConfig:
    """The detector that a config.json describes; absent values take transformers' defaults.

    Args:
        hf_config: The file's content.
        state: The tensors beside it, which tell the number of classes and the blocks of
            transformers' own ResNet.

    Raises:
        ValueError: If it is another architecture, or has an option that ours lacks.
    """
    found = hf_config.get("model_type")
    kind = next((each for each in _ARCHITECTURES if each == found), None)
    if kind is None:
        raise ValueError(
            f"config.json says model_type {found!r}: expected "
            f"{' or '.join(map(repr, _ARCHITECTURES))}."
        )
    for name, expected in _REQUIRED.items():
        if hf_config.get(name, expected) != expected:
            raise ValueError(
                f"config.json says {name} {hf_config[name]!r}: expected {expected!r}, the only "
                "one that saccade has."
            )
    defaults = DETR_DEFAULTS if kind == "detr" else {}
    stored = read_fields(DetectorFields, {**defaults, **hf_config}, "config.json")
    if kind == "detr" and stored.auxiliary_loss:
        raise ValueError(
            "config.json says auxiliary_loss true, with which transformers normalises DETR's "
            "queries between layers: expected false; set it so if the weights were trained so."
        )
    return _deformable(stored, state) if kind == "deformable_detr" else _detr(stored, state)


def _deformable(hf: DetectorFields, state: Mapping[str, Tensor]) -> DetectorConfig:
    num_levels = hf.num_feature_levels
    levels, name, dilated = _backbone(hf, state, (2, 3, 4) if num_levels > 1 else (4,))
    if num_levels < len(levels):
        raise ValueError(
            f"config.json says num_feature_levels {num_levels}, but its backbone gives "
            f"{len(levels)} maps: expected a level for each."
        )
    return DetectorConfig(
        class_names=_class_names(hf, state, "class_embed.0.weight", num_others=0),
        backbone=BackboneConfig(name=name, levels=levels, dilated=dilated),
        neck=NeckConfig(width=hf.d_model, num_extra_levels=num_levels - len(levels)),
        encoder=EncoderConfig(**_stack(hf, "encoder"), num_points=hf.encoder_n_points),
        queries=QueryConfig(
            num_queries=hf.two_stage_num_proposals if hf.two_stage else hf.num_queries,
            source="two-stage" if hf.two_stage else "learned",
            content="proposal" if hf.two_stage else "learned",
        ),
        decoder=DecoderConfig(
            **_stack(hf, "decoder"), num_points=hf.decoder_n_points, refined=hf.with_box_refine
        ),
    )


def _detr(hf: DetectorFields, state: Mapping[str, Tensor]) -> DetectorConfig:
    levels, name, dilated = _backbone(hf, state, (4,))
    return DetectorConfig(
        class_names=_class_names(hf, state, "class_labels_classifier.weight", num_others=1),
        backbone=BackboneConfig(name=name, levels=levels[-1:], dilated=dilated),
        neck=NeckConfig(width=hf.d_model, num_extra_levels=0, norm="none"),
        positions=PositionConfig(centred=False, level_embedding=False),
        encoder=EncoderConfig(**_stack(hf, "encoder"), attention="dense"),
        queries=QueryConfig(num_queries=hf.num_queries, content="zeros", references=False),
        decoder=DecoderConfig(**_stack(hf, "decoder"), attention="dense", final_norm=True),
        classification="softmax",
    )


def _stack(hf: DetectorFields, part: Literal["encoder", "decoder"]) -> dict[str, Any]:
    return {
        "num_layers": getattr(hf, f"{part}_layers"),
        "num_heads": getattr(hf, f"{part}_attention_heads"),
        "ffn_width": getattr(hf, f"{part}_ffn_dim"),
        "dropout": hf.dropout,
    }


def _backbone(
    hf: DetectorFields, state: Mapping[str, Tensor], standard: tuple[int, ...]
) -> tuple[tuple[int, ...], str, bool]:
    """Levels, timm's name, and whether C5 is dilated."""
    content = hf.backbone_config or hf.backbone_kwargs or {}
    given = read_fields(BackboneFields, content, "config.json.backbone_config")
    own_resnet = [key.removesuffix(_STEM) for key in state if key.endswith(_STEM)]
    known = given.model_type in ("timm_backbone", "resnet")
    if not known or (given.model_type == "resnet") > bool(own_resnet):
        raise ValueError(
            f"config.json says backbone_config.model_type {given.model_type!r}, and the tensors "
            "are not those of transformers' ResNet: expected 'timm_backbone' or a 'resnet'."
        )
    if own_resnet:
        name = resnet_name(state, f"{own_resnet[0]}encoder.stages.", 0, ".layer.2.")
        return tuple(map(_stage_level, given.out_features or ("stage4",))), name, False
    name = (given.backbone or hf.backbone or "resnet50").split("/")[-1].split(".")[0]
    all_levels = _levels(name)
    indices = given.out_indices or standard
    if not all(0 <= index < len(all_levels) for index in indices):
        raise ValueError(
            f"config.json takes the maps {indices} of {name}: expected 0 to {len(all_levels) - 1}."
        )
    levels = tuple(all_levels[index] for index in indices)
    if "output_stride" in content:
        return levels, name, given.output_stride == 16
    return levels, name, hf.dilation


def _stage_level(stage: str) -> int:
    if stage not in ("stage1", "stage2", "stage3", "stage4"):
        raise ValueError(
            f"config.json says backbone_config.out_features {stage!r}: expected stage1 to stage4."
        )
    return int(stage[-1]) + 1


def _levels(backbone: str) -> list[int]:
    """The l of every map C_l of a timm backbone, in timm's order."""
    if not timm.is_model(backbone):
        raise ValueError(
            f'the backbone is "{backbone}", which timm {timm.__version__} does not have: expected '
            "a name from timm.list_models()."
        )
    with torch.device("meta"):
        info: Any = timm.create_model(backbone, features_only=True).feature_info
    return [int(math.log2(stride)) for stride in info.reduction()]


def _class_names(
    hf: DetectorFields, state: Mapping[str, Tensor], head: str, num_others: int
) -> tuple[str, ...]:
    heads = [tensor for key, tensor in state.items() if key.endswith(head)]
    if (names := hf.id2label) is None:
        count = len(heads[0]) - num_others if heads else 2
        return tuple(f"class {index}" for index in range(count))
    for tensor in heads:
        if len(tensor) != len(names) + num_others:
            other = ' and "no object"' if num_others else ""
            raise ValueError(
                f"config.json names {len(names)} classes in id2label, but {head} has "
                f"{len(tensor)} rows: expected one row for each class{other}."
            )
    if not all(str(key).isdecimal() for key in names):
        raise ValueError(
            f"config.json says id2label {names}: expected the number of every class as its key."
        )
    ordered = [names[key] for key in sorted(names, key=int)]
    # COCO's unused ids are all called so; a class name must be one of its kind.
    return tuple(f"unused {i}" if name == "N/A" else name for i, name in enumerate(ordered))


def huggingface_config(config: DetectorConfig) -> dict[str, Any]:
    """The config.json of a detector.

    Raises:
        ValueError: If transformers has no such detector.
    """
    kind = layout_kind(config)
    check_shared(config, ("dropout",), "transformers")
    written: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[kind]],
        "model_type": kind,
        "d_model": config.neck.width,
        "num_queries": config.queries.num_queries,
        "dropout": config.encoder.dropout,
        "id2label": {str(i): name for i, name in enumerate(config.class_names)},
        "label2id": {name: i for i, name in enumerate(config.class_names)},
        "dtype": "float32",
        **_written_backbone(config),
    }
    parts: list[tuple[str, EncoderConfig | DecoderConfig]] = [
        ("encoder", config.encoder),
        ("decoder", config.decoder),
    ]
    for name, part in parts:
        written[f"{name}_layers"] = part.num_layers
        written[f"{name}_attention_heads"] = part.num_heads
        written[f"{name}_ffn_dim"] = part.ffn_width
        if kind == "deformable_detr":
            written[f"{name}_n_points"] = part.num_points
    if kind == "deformable_detr":
        written["num_feature_levels"] = config.num_levels
        written["with_box_refine"] = config.decoder.refined
        written["two_stage"] = config.queries.source == "two-stage"
        written["two_stage_num_proposals"] = config.queries.num_queries
    return written


def _written_backbone(config: DetectorConfig) -> dict[str, Any]:
    backbone = config.backbone
    if backbone.name == "small-resnet":
        raise ValueError(
            'backbone.name is "small-resnet", which transformers does not have: save the detector '
            "in its own layout instead."
        )
    flat = {"backbone": backbone.name, "dilation": backbone.dilated, "use_timm_backbone": True}
    if backbone.levels == ((3, 4, 5) if config.num_levels > 1 else (5,)):
        # Both versions 4 and 5 read these, and derive the maps.
        return {**flat, "use_pretrained_backbone": False, "backbone_config": None}
    all_levels = _levels(backbone.name)
    return {
        "dilation": backbone.dilated,
        "backbone_config": {
            "model_type": "timm_backbone",
            "backbone": backbone.name,
            "num_channels": 3,
            "features_only": True,
            "use_pretrained_backbone": False,
            "out_indices": [all_levels.index(level) for level in backbone.levels],
            **({"output_stride": 16} if backbone.dilated else {}),
        },
    }
