"""The names under which models are served."""

import re
from collections.abc import Sequence
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_PARTS_OF_A_RUN = ("best", "last")


def name_models(models: Sequence[str]) -> dict[str, str]:
    """Weights by name.

    Args:
        models: WEIGHTS or NAME=WEIGHTS. Without a name, that of the folder or file, or of the run
            whose best/ or last/ it is.

    Raises:
        ValueError: If there is none, or two have one name.

    >>> name_models(["runs/train/best", "cells=r50.pth"])
    {'train': 'runs/train/best', 'cells': 'r50.pth'}
    """
    if not models:
        raise ValueError("no models: name one or more, such as runs/train/best.")
    named: dict[str, str] = {}
    for model in models:
        name, weights = _split(model)
        if name in named:
            raise ValueError(
                f'{named[name]} and {weights} would both be called "{name}": name one of them, '
                f"such as other={weights}."
            )
        named[name] = weights
    return named


def _split(model: str) -> tuple[str, str]:
    name, equals, weights = model.partition("=")
    if equals and not Path(model).exists():
        if not _NAME.fullmatch(name) or not weights:
            raise ValueError(
                f'"{model}" is not NAME=WEIGHTS: expected a name of letters, digits, ".", "_" and '
                '"-", such as cells=runs/train/best.'
            )
        return name, weights
    path = Path(model)
    stem = path.name if path.is_dir() else path.stem
    if path.name in _PARTS_OF_A_RUN:
        stem = path.resolve().parent.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "model", model
