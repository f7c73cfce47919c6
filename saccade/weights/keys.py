"""Translation of tensor names between a foreign layout and ours, both ways."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Rename = tuple[str, str]
"""(their prefix, our prefix); a prefix ends at a dot or is the whole name."""
Join = tuple[str, tuple[str, ...], int]
"""(their tensor, our tensors, dimension): theirs is ours concatenated, in this order."""


@dataclass(frozen=True)
class KeyMap:
    """How a foreign layout names, joins and repeats the tensors of one detector."""

    renamed: Sequence[Rename]
    """What is only named differently."""
    joined: Sequence[Join] = ()
    """What they hold in one tensor and we in several."""
    copies: Sequence[tuple[str, str]] = ()
    """(prefix, prefix of what it repeats), both theirs: modules registered twice, or tied."""


@dataclass(frozen=True)
class Translated:
    """Tensors under our names, and the foreign names that stand for nothing of ours."""

    state: dict[str, Tensor]
    left_out: list[str]


def to_ours(theirs: Mapping[str, Tensor], key_map: KeyMap) -> Translated:
    """Rename, split what is joined, and drop repetitions.

    A repetition stands in for its original where only the repetition is stored. One that differs
    from its original is left out by name.
    """
    originals, left_out = _without_copies(theirs, key_map.copies)
    prefixes = dict(key_map.renamed)
    joined = {key: (parts, dimension) for key, parts, dimension in key_map.joined}
    ours: dict[str, Tensor] = {}
    for key, tensor in originals.items():
        if key in joined:
            parts, dimension = joined[key]
            split = tensor.tensor_split(len(parts), dimension)
            ours |= {part: piece.clone() for part, piece in zip(parts, split, strict=True)}
        elif (name := _rename(key, prefixes)) is not None:
            ours[name] = tensor
        else:
            left_out.append(key)
    return Translated(ours, left_out)


def to_theirs(ours: Mapping[str, Tensor], key_map: KeyMap, with_copies: bool) -> dict[str, Tensor]:
    """The inverse of `to_ours`, with or without the repetitions."""
    theirs: dict[str, Tensor] = {}
    rest = dict(ours)
    for key, parts, dimension in key_map.joined:
        theirs[key] = torch.cat([rest.pop(part) for part in parts], dimension)
    prefixes = {our: their for their, our in key_map.renamed}
    for key, tensor in rest.items():
        name = _rename(key, prefixes)
        assert name is not None, f"no row of the key map covers {key}"
        theirs[name] = tensor
    if with_copies:
        for copy, original in key_map.copies:
            for key in _under(original, theirs):
                theirs[copy + key.removeprefix(original)] = theirs[key]
    return theirs


def _rename(key: str, prefixes: Mapping[str, str]) -> str | None:
    head, tail = key, ""
    while head:
        if head in prefixes:
            return prefixes[head] + tail
        head, dot, last = head.rpartition(".")
        tail = dot + last + tail
    return None


def _without_copies(
    state: Mapping[str, Tensor], copies: Sequence[tuple[str, str]]
) -> tuple[dict[str, Tensor], list[str]]:
    kept = dict(state)
    left_out = []
    for copy, original in copies:
        for key in _under(copy, kept):
            tensor = kept.pop(key)
            twin = kept.setdefault(original + key.removeprefix(copy), tensor)
            if not torch.equal(tensor, twin):
                left_out.append(key)
    return kept, left_out


def _under(prefix: str, state: Mapping[str, Tensor]) -> list[str]:
    return [key for key in state if key == prefix or key.startswith(f"{prefix}.")]
