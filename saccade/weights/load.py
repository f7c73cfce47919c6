"""Find weights, verify them, and say what was loaded, adapted and left out."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saccade.config import DetectorConfig, as_class_names
from saccade.config_json import VERSION, from_dict
from saccade.presets import preset_config
from saccade.weights.adapt import adapt_classes, missing_offsets, with_deformable_levels
from saccade.weights.files import find_source, read_checkpoint, read_json, read_safetensors
from saccade.weights.fit import check_fit, check_preset
from saccade.weights.huggingface import translate_huggingface
from saccade.weights.huggingface_config import recognise_huggingface
from saccade.weights.keys import Translated, to_ours
from saccade.weights.official import official_keys
from saccade.weights.processor import recognise_processor
from saccade.weights.recognise import recognise_official

_COUNTERS = ("total_params", "total_ops", "num_batches_tracked")
"""What profilers and batch norms leave in foreign files; no one misses them."""


@dataclass(frozen=True)
class LoadReport:
    """What became of a file's content; ``str`` makes a few lines of it."""

    source: str
    layout: str
    """"saccade", "official" or "transformers"."""
    loaded: int
    """Tensors of the detector that came from the file."""
    kept: tuple[str, ...] = ()
    """With other classes than the stored ones: those found by name. Otherwise empty."""
    new: tuple[str, ...] = ()
    """Classes whose rows in the class heads are random and must be trained."""
    left_out: tuple[str, ...] = ()
    """Tensors of the file that the detector has no place for."""
    added: tuple[str, ...] = ()
    """Offsets of convolutions that are deformable in the detector but plain in the file: zeros."""

    @property
    def adapted(self) -> tuple[str, ...]:
        """What became of each class, if they are other classes than the stored ones."""
        return (*(f"{name}: kept" for name in self.kept), *(f"{name}: new" for name in self.new))

    def __str__(self) -> str:
        lines = [f"{self.source} ({self.layout} layout): {self.loaded} tensors loaded."]
        if self.adapted:
            lines.append(
                f"Class heads adapted by name: kept {_listed(self.kept)}; "
                f"new, to be trained: {_listed(self.new)}."
            )
        if self.left_out:
            lines.append(f"Left out: {_listed(self.left_out)}.")
        if self.added:
            lines.append(
                f"{len(self.added)} tensors added as zeros, offsets of deformable convolutions: "
                f"{_listed(self.added, most=1)}."
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class LoadedWeights:
    """A detector's description, its tensors by our names, and how they came about."""

    config: DetectorConfig
    state: dict[str, Tensor]
    report: LoadReport


def load_weights(
    source: str | Path,
    class_names: Sequence[str] | None = None,
    preset: str | None = None,
    revision: str | None = None,
) -> LoadedWeights:
    """Read a detector; its floating-point tensors become float32.

    Args:
        source: A folder that `save_weights` wrote, an official ``.pth`` file of Deformable DETR or
            DETR, a transformers folder, or the id of such a folder on the Hugging Face hub.
        class_names: Other classes than the stored ones; class heads are adapted by name.
        preset: What an official file was trained as, where it does not tell.
        revision: A branch, tag or commit on the hub.

    Raises:
        ValueError: If the source is missing, damaged, of another architecture, or contradicts
            itself or the preset.
    """
    path = find_source(source, revision)
    known = None if preset is None else preset_config(preset)
    names = None if class_names is None else as_class_names(class_names)
    layout, config, translated = _read_folder(path) if path.is_dir() else _read_file(path, known)
    adapted_config = config
    if known is not None and preset is not None:
        adapted_config = with_deformable_levels(config, known.backbone)
        check_preset(adapted_config, known, preset)
    state = {key: _as_float32(tensor) for key, tensor in translated.state.items()}
    surplus = check_fit(config, state, str(path))
    for key in surplus:
        del state[key]
    left_out = (*translated.left_out, *surplus)
    report = LoadReport(str(source), layout, len(state), left_out=left_out)
    if adapted_config != config:
        config, added = adapted_config, missing_offsets(adapted_config, state)
        state |= added
        report = replace(report, added=tuple(added))
    if names is None or names == config.class_names:
        return LoadedWeights(config, state, report)
    adapted = adapt_classes(config, state, names)
    report = replace(report, kept=adapted.kept, new=adapted.new)
    return LoadedWeights(adapted.config, adapted.state, report)


def _read_file(path: Path, preset: DetectorConfig | None) -> tuple[str, DetectorConfig, Translated]:
    state, args = read_checkpoint(path)
    state = _without_counters(state)
    with _naming(path):
        config = recognise_official(state, args, preset)
        return "official", config, to_ours(state, official_keys(config))


def _read_folder(folder: Path) -> tuple[str, DetectorConfig, Translated]:
    description = read_json(folder / "config.json")
    state = read_safetensors(folder)
    if description.get("format") == "saccade":
        with _naming(folder / "config.json"):
            return "saccade", _own_config(description), Translated(state, [])
    state = _without_counters(state)
    with _naming(folder):
        config = recognise_processor(recognise_huggingface(description, state), folder)
        return "transformers", config, translate_huggingface(state, config)


def _own_config(description: dict[str, Any]) -> DetectorConfig:
    version = description.get("version")
    if version != VERSION:
        raise ValueError(
            f"its version is {version!r}: expected {VERSION}; install the saccade that wrote it."
        )
    return from_dict(DetectorConfig, description.get("detector"), "detector")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Puts the path in front of an error about its content."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        # Foreign files break in more ways than are checked by name.
        raise ValueError(
            f"{path} is malformed ({type(error).__name__}: {error}): expected the content that its "
            "layout has; fetch or write it again."
        ) from error


def _without_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if not key.endswith(_COUNTERS)}


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor


def _listed(names: Sequence[str], most: int = 5) -> str:
    if not names:
        return "none"
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
