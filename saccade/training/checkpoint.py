"""What a run needs to go on as if it had never stopped."""

import os
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
    batch: int = 0
    """Batches of the present epoch that every process has taken its steps with."""
    skipped: int = 0
    """Steps left out because a loss or gradient was not finite."""
    evaluation_due: bool = False
    """Whether the run was about to be evaluated here; its record tells whether it was."""


class Checkpoint(NamedTuple):
    """A run at one moment."""

    progress: Progress
    model: dict[str, Any]
    """The weights that train, with the statistics of norms."""
    optimizer: dict[str, Any]
    average: dict[str, Any] | None = None
    """Of `WeightAverage.state_dict`; None in runs of earlier versions."""
    scaler: dict[str, Any] | None = None
    """Of `LossScaler.state_dict`."""


def save_checkpoint(file: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the previous one is replaced only once the new one is on the disk.

    Raises:
        OSError: If there is no room for it; the previous one is then as it was.
    """
    partial = file.with_suffix(".partial")
    state = checkpoint._asdict() | {"progress": asdict(checkpoint.progress)}
    try:
        with partial.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, file)
    # Torch turns some of the file's errors into its own.
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        kept = "the one before is kept" if file.exists() else "there is none before it"
        raise OSError(
            f"the checkpoint {file} cannot be written ({' '.join(str(error).split())}): {kept}; "
            "make room on the disk and resume the run."
        ) from error
    _sync_folder(file.parent)


def load_checkpoint(file: Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote.

    Raises:
        ValueError: If the file is missing, broken or not a checkpoint of a run.
    """
    if not file.is_file():
        raise ValueError(f"{file} does not exist: there is no run to resume in {file.parent}.")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        return Checkpoint(**state | {"progress": Progress(**state["progress"])})
    except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{file} is not a complete checkpoint of a run ({error}): start the run anew, or "
            "continue from another folder."
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power failure, where a folder can be opened (not on Windows)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
