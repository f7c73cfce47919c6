"""Whether tensors fit a detector, and a detector its preset."""

from collections.abc import Mapping
from operator import attrgetter

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
