"""What a run needs to go on as if it had never stopped."""

import os
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass
class Progress:
    """How far a run is."""

    epoch: int = 0
    """Epochs completed."""
    step: int = 0
    """Optimiser steps taken."""
    seconds: float = 0.0
    """Time trained, evaluations not counted."""


def save_checkpoint(
    file: Path, progress: Progress, model: dict[str, Any], optimizer: dict[str, Any]
) -> None:
    """Write a checkpoint; the previous one is replaced only once the new one is complete."""
    partial = file.with_suffix(".partial")
    torch.save({"progress": asdict(progress), "model": model, "optimizer": optimizer}, partial)
    os.replace(partial, file)


def load_checkpoint(file: Path) -> tuple[Progress, dict[str, Any], dict[str, Any]]:
    """Read what `save_checkpoint` wrote: progress, model state and optimiser state.

    Raises:
        ValueError: If the file is missing, broken or not a checkpoint of a run.
    """
    if not file.is_file():
        raise ValueError(f"{file} does not exist: there is no run to resume in {file.parent}.")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        return Progress(**state["progress"]), state["model"], state["optimizer"]
    except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{file} is not a complete checkpoint of a run ({error}): start the run anew, or "
            "continue from another folder."
        ) from error
