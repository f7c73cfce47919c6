"""What a detector may have other than its weights' file: classes, and deformable convolutions."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from saccade.config import BackboneConfig, DetectorConfig, as_class_names
from saccade.weights.fit import expected_shapes

_PLACEHOLDER = re.compile(r"class \d+|LABEL_\d+")
_PROPOSALS = "queries.class_head."


@dataclass(frozen=True)
class Adapted:
    """A detector with other classes, and what became of them."""

    config: DetectorConfig
    state: dict[str, Tensor]
    kept: tuple[str, ...]
    """Classes whose weights were found by their name."""
    new: tuple[str, ...]
    """Classes whose weights are random."""


def adapt_classes(
    config: DetectorConfig, state: Mapping[str, Tensor], class_names: Sequence[str]
) -> Adapted:
    """The detector with `class_names`: rows of classes of the same name are kept, others are new.

    If the file had no names of its own and as many classes, the names are given to them in order.
    Channel 0 of the first stage of a two-stage detector says "object", whatever its class, and
    stays so.
    """
    names = as_class_names(class_names)
    adapted_config = replace(config, class_names=names)
    unnamed = all(_PLACEHOLDER.fullmatch(name) for name in config.class_names)
    if names == config.class_names or (unnamed and len(names) == config.num_classes):
        return Adapted(adapted_config, dict(state), names, ())
    stored = {name: row for row, name in enumerate(config.class_names)}
    rows = [stored.get(name) for name in names]
    adapted = dict(state)
    for key, tensor in state.items():
        if key.startswith("decoder.heads.class_heads."):
            others = [config.num_classes] if config.classification == "softmax" else []
            adapted[key] = _gather(key, tensor, [*rows, *others], config)
        elif key.startswith(_PROPOSALS):
            adapted[key] = _gather(key, tensor, [0, *(row or None for row in rows[1:])], config)
        elif key == "denoising.labels.weight":
            adapted[key] = _gather(key, tensor, rows, config)
    return Adapted(
        adapted_config,
        adapted,
        kept=tuple(name for name in names if name in stored),
        new=tuple(name for name in names if name not in stored),
    )


def with_deformable_levels(config: DetectorConfig, backbone: BackboneConfig) -> DetectorConfig:
    """The detector with the deformable convolutions of another backbone beside its own.

    It stays as it is where it has deformable convolutions elsewhere or of another kind.
    """
    own = config.backbone
    another_kind = own.deformable_levels and own.modulated != backbone.modulated
    if another_kind or not set(own.deformable_levels) < set(backbone.deformable_levels):
        return config
    deformable = replace(
        own,
        deformable_levels=backbone.deformable_levels,
        modulated=backbone.modulated,
        # Levels that were frozen may be deformable in the other one.
        num_frozen_stages=backbone.num_frozen_stages,
    )
    return replace(config, backbone=deformable)


def missing_offsets(config: DetectorConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that deformable convolutions have beside those of plain ones, all zeros.

    With zeros a detector calculates what it did with plain convolutions (see
    `saccade.model.deformable_convolution`).

    Args:
        config: The detector with deformable convolutions.
        state: The tensors that it has already.
    """
    return {
        key: torch.zeros(shape)
        for key, shape in expected_shapes(config).items()
        if key not in state and key.startswith("backbone.") and ".sampling_offsets." in key
    }


def _gather(key: str, stored: Tensor, rows: Sequence[int | None], config: DetectorConfig) -> Tensor:
    fresh = _fresh(key, stored, len(rows), config)
    for index, row in enumerate(rows):
        if row is not None:
            fresh[index] = stored[row]
    return fresh


def _fresh(key: str, stored: Tensor, count: int, config: DetectorConfig) -> Tensor:
    if key == "denoising.labels.weight":
        return torch.randn(count, *stored.shape[1:])
    if key.endswith(".bias") and config.classification == "sigmoid":
        # Every query starts as background with probability 0.99, as in a new detector.
        return torch.full((count,), -math.log(99))
    linear = nn.Linear(config.width, count)
    parameter = linear.bias if key.endswith(".bias") else linear.weight
    return parameter.detach().clone()
