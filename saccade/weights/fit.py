"""Whether tensors fit a detector, and a detector its preset or the model of a run."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from saccade.config import DetectorConfig
from saccade.model import DetectorModel

_STRUCTURE = (
    "backbone.name",
    "backbone.levels",
    "backbone.dilated",
    "backbone.deformable_levels",
    "neck.num_extra_levels",
    "neck.kind",
    "encoder.attention",
    "queries.source",
    "decoder.refined",
)
_MAY_DIFFER = (
    "class_names",
    "backbone.norm",
    "backbone.num_frozen_stages",
    "selection.num_tokens",
    "selection.keep",
    "encoder.dropout",
    "queries.num_queries",
    "decoder.dropout",
    "decoder.look_forward_twice",
    "denoising",
    "one_to_many",
    "input",
)
"""What a run may have otherwise than the weights that it starts from. A field that is not named
here may not: heads of attention, for one, leave no trace in any shape."""


def expected_shapes(config: DetectorConfig) -> dict[str, torch.Size]:
    """The shape of every tensor of a detector, without allocating one."""
    with torch.device("meta"):
        return {key: tensor.shape for key, tensor in DetectorModel(config).state_dict().items()}


def check_fit(config: DetectorConfig, state: Mapping[str, Tensor], source: str) -> list[str]:
    """The names of tensors that the detector has no place for.

    Raises:
        ValueError: If a tensor is missing or of another shape; it names the first.
    """
    shapes = expected_shapes(config)
    missing = [key for key in shapes if key not in state]
    if missing:
        raise ValueError(
            f"{source} lacks {len(missing)} of {len(shapes)} tensors, {missing[0]} first: it is "
            "damaged, or its configuration belongs to another detector."
        )
    for key, shape in shapes.items():
        if state[key].shape != shape:
            raise ValueError(
                f"{source} holds {key} of shape {list(state[key].shape)}, but its configuration "
                f"(with {config.num_classes} classes) asks for {list(shape)}: they belong to "
                "different detectors."
            )
    return [key for key in state if key not in shapes]


def check_preset(config: DetectorConfig, preset: DetectorConfig, name: str) -> None:
    """Raises ValueError if the loaded detector is built otherwise than the preset."""
    for field in _STRUCTURE:
        found, expected = attrgetter(field)(config), attrgetter(field)(preset)
        if found != expected:
            raise ValueError(
                f'the file holds a detector with {field} {found!r}, but preset "{name}" has '
                f"{expected!r}: pass the preset that it was trained as, or none."
            )


def check_options(found: DetectorConfig, wanted: DetectorConfig, source: str) -> None:
    """Whether a run's model can start from the weights of another detector.

    It may have other classes, another number of queries, other parts that only training has,
    another input size, and deformable convolutions where the file has plain ones (`found` has them
    then already).

    Raises:
        ValueError: If an option differs that the weights have been trained with; it names it.
    """
    for name, stored, asked in conflicts(found, wanted):
        option = name.replace("_", "-")
        raise ValueError(
            f"--model.{option} is {_shown(asked)}, but {source} was trained with "
            f"{_shown(stored)}: leave the option out, or choose the preset or the weights that "
            "it belongs to."
        )


def conflicts(found: DetectorConfig, wanted: DetectorConfig) -> Iterator[tuple[str, Any, Any]]:
    """What of a detector its weights cannot have otherwise: the name, the value of each."""
    for name, stored, asked in _differences(found, wanted):
        if not any(name == each or name.startswith(f"{each}.") for each in _MAY_DIFFER):
            yield name, stored, asked


def _differences(found: Any, wanted: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for field in fields(found):
        name = f"{prefix}{field.name}"
        one, other = getattr(found, field.name), getattr(wanted, field.name)
        if is_dataclass(one):
            yield from _differences(one, other, f"{name}.")
        elif one != other:
            yield name, one, other


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "empty"
    return str(value)
