"""The fields that are read of transformers' config.json, with their types and defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from saccade.config_json import from_dict

Fields = TypeVar("Fields")


@dataclass(frozen=True, kw_only=True)
class DetectorFields:
    """A Deformable DETR, whose defaults these are, or a DETR."""

    d_model: int = 256
    num_queries: int = 300
    num_feature_levels: int = 4
    dropout: float = 0.1
    encoder_layers: int = 6
    encoder_attention_heads: int = 8
    encoder_n_points: int = 4
    encoder_ffn_dim: int = 1024
    decoder_layers: int = 6
    decoder_attention_heads: int = 8
    decoder_n_points: int = 4
    decoder_ffn_dim: int = 1024
    with_box_refine: bool = False
    two_stage: bool = False
    two_stage_num_proposals: int = 300
    auxiliary_loss: bool = False
    dilation: bool = False
    id2label: dict[str | int, str] | None = None
    """Keys are numbers; JSON makes them strings."""
    backbone: str | None = None
    backbone_config: dict[str, Any] | None = None
    backbone_kwargs: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class BackboneFields:
    """The backbone_config of a detector."""

    model_type: str = "timm_backbone"
    backbone: str | None = None
    out_features: tuple[str, ...] | None = None
    out_indices: tuple[int, ...] | None = None
    output_stride: int | None = None


DETR_DEFAULTS = {"num_queries": 100, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048}
"""Where DETR's differ."""


def read_fields(kind: type[Fields], content: Mapping[str, Any], name: str) -> Fields:
    """Those fields of `content` that `kind` has.

    Raises:
        ValueError: If one is of another type.
    """
    read = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    return from_dict(kind, {key: content[key] for key in content if key in read}, name)
