"""Other classes than the stored ones: class heads are adapted by name."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from saccade.config import DetectorConfig, as_class_names

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
    linear = nn.Linear(config.neck.width, count)
    parameter = linear.bias if key.endswith(".bias") else linear.weight
    return parameter.detach().clone()
