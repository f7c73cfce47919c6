"""A file's tensors in a detector with other classes, other queries, or parts that only train."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saccade.config import DetectorConfig
from saccade.config_parts import BackboneConfig
from saccade.model import DetectorModel
from saccade.weights.classes import ClassMatch, match_classes

_CLASS_HEADS = "decoder.heads.class_heads."
_PROPOSALS = "queries.class_head."
_LABELS = "denoising.labels.weight"
_QUERIES = ("queries.positions.weight", "queries.content.weight")
_EXTRA_QUERIES = (
    "one_to_many.learned.positions.weight",
    "one_to_many.learned.content.weight",
    "one_to_many.content.weight",
)
_ONLY_TRAINING = ("denoising.", "one_to_many.")
_COUNTER = ".num_batches_tracked"


@dataclass(frozen=True)
class Adapted:
    """The tensors of a detector, and how much of them is a file's."""

    state: dict[str, Tensor]
    classes: ClassMatch
    from_file: dict[str, int]
    """How many numbers of a tensor the file gave, for those that it did not give whole."""
    left_out: tuple[str, ...]
    """Tensors of the file without a place."""
    added: tuple[str, ...]
    """Tensors of the detector that the file does not have."""

    @property
    def random(self) -> tuple[str, ...]:
        """Tensors that hold new rows; of the first stage's heads only the old one is used."""
        return tuple(
            key
            for key in self.from_file
            if not key.startswith(_PROPOSALS) and not key.endswith(_COUNTER)
        )


def adapt(
    found: DetectorConfig,
    state: Mapping[str, Tensor],
    wanted: DetectorConfig,
    fresh: Mapping[str, Tensor] | None = None,
) -> Adapted:
    """The tensors of `wanted`: those of the file as far as they go, the others as initialised.

    Rows of class heads and of the denoising labels go by the names of the classes, the "no object"
    of a softmax stays last; channel 0 of the first stage of a two-stage detector says "object",
    whatever its class, and stays so. Of learned queries the first are kept.

    Args:
        found: The detector of the file.
        state: Its tensors.
        wanted: As `found` but for what `saccade.weights.fit.check_options` lets differ.
        fresh: The tensors of a new `wanted`; one is made if they are not given.

    Raises:
        ValueError: If a tensor is missing or has another shape than it can be adapted to.
    """
    classes = match_classes(found.class_names, wanted.class_names)
    fresh = DetectorModel(wanted).state_dict() if fresh is None else fresh
    adapted: dict[str, Tensor] = {}
    from_file: dict[str, int] = {}
    for key, initial in fresh.items():
        rows = _rows(key, found, wanted, classes, len(initial) if initial.ndim else 0)
        if key not in state:
            if not key.endswith(_COUNTER):
                _check_optional(key)
            from_file[key] = 0
            adapted[key] = initial.clone()
        elif rows is None:
            adapted[key] = state[key]
        else:
            kept = [(row, source) for row, source in enumerate(rows) if source is not None]
            adapted[key] = _gather(state[key], initial, kept)
            if len(kept) < len(initial):
                from_file[key] = len(kept) * initial[0].numel()
        if adapted[key].shape != initial.shape:
            raise ValueError(
                f"the file holds {key} of shape {list(adapted[key].shape)}, but the detector has "
                f"{list(initial.shape)}: leave out the model options that change its shape."
            )
    surplus, missing = (
        tuple(key for key in one if key not in other and not key.endswith(_COUNTER))
        for one, other in ((state, fresh), (fresh, state))
    )
    return Adapted(adapted, classes, from_file, surplus, missing)


def with_deformable_levels(config: DetectorConfig, backbone: BackboneConfig) -> DetectorConfig:
    """The detector with the deformable convolutions of another backbone beside its own.

    It stays as it is where it has deformable convolutions elsewhere or of another kind. The offsets
    of a new deformable convolution are zeros, with which it calculates what the plain one did (see
    `saccade.model.deformable_convolution`).
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


def _rows(
    key: str, found: DetectorConfig, wanted: DetectorConfig, classes: ClassMatch, count: int
) -> Sequence[int | None] | None:
    """The row of the file's tensor for each of the detector's; None for a tensor to take whole."""
    no_object = [found.num_classes] if found.classification == "softmax" else []
    if found.class_names != wanted.class_names:
        if key.startswith(_CLASS_HEADS):
            return [*classes.rows, *no_object]
        if key.startswith(_PROPOSALS):
            if classes.rows == tuple(range(found.num_classes)):
                return None
            return [0, *(row or None for row in classes.rows[1:]), *no_object]
        if key == _LABELS:
            return classes.rows
    for keys, stored, own in (
        (_QUERIES, found.queries.num_queries, wanted.queries.num_queries),
        (_EXTRA_QUERIES, found.one_to_many.num_queries, wanted.one_to_many.num_queries),
    ):
        if key in keys and stored != own:
            return [row if row < stored else None for row in range(count)]
    return None


def _check_optional(key: str) -> None:
    offsets = key.startswith("backbone.") and ".sampling_offsets." in key
    if not offsets and not key.startswith(_ONLY_TRAINING):
        raise ValueError(
            f"the file lacks {key}, which the detector has: leave out the model options that "
            "change its shape."
        )


def _gather(stored: Tensor, initial: Tensor, kept: Sequence[tuple[int, int]]) -> Tensor:
    gathered = initial.to(stored.dtype, copy=True)
    if kept:
        rows, sources = torch.tensor(kept).unbind(1)
        gathered[rows] = stored[sources]
    return gathered
