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
from saccade.weights.adapt import adapt, with_deformable_levels
from saccade.weights.files import find_source, read_checkpoint, read_json, read_tensors
from saccade.weights.fit import check_fit, check_options, check_preset
from saccade.weights.huggingface import translate_huggingface
from saccade.weights.huggingface_config import recognise_huggingface
from saccade.weights.keys import Translated, to_ours
from saccade.weights.official import official_keys
from saccade.weights.processor import recognise_processor
from saccade.weights.recognise import recognise_official
from saccade.weights.report import LoadReport, count_parts

_COUNTERS = ("total_params", "total_ops", "num_batches_tracked")
"""What profilers and batch norms leave in foreign files; no one misses them."""


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
    known = None if preset is None else preset_config(preset)
    names = None if class_names is None else as_class_names(class_names)
    stored = _read(source, known, revision)
    wanted = stored.config
    if known is not None and preset is not None:
        wanted = with_deformable_levels(wanted, known.backbone)
        check_preset(wanted, known, preset)
    if names is not None:
        wanted = replace(wanted, class_names=names)
    return stored if wanted == stored.config else _adapted(stored, wanted)


def load_into(
    source: str | Path,
    wanted: DetectorConfig,
    fresh: Mapping[str, Tensor] | None = None,
    revision: str | None = None,
) -> LoadedWeights:
    """Read the weights that a detector's training is to start from.

    Args:
        source: As for `load_weights`. What an official file does not tell is taken from `wanted`.
        wanted: The detector; it may differ from the stored one as `check_options` says. Class heads
            are adapted by name, and of other numbers of queries the first are kept.
        fresh: The tensors of a new detector, for what the source does not have.
        revision: A branch, tag or commit on the hub.

    Returns:
        All tensors of `wanted`, float32.

    Raises:
        ValueError: If the source is missing, damaged, of another architecture, or was trained with
            an option that `wanted` has otherwise.
    """
    stored = _read(source, wanted, revision)
    check_options(with_deformable_levels(stored.config, wanted.backbone), wanted, str(source))
    return _adapted(stored, wanted, fresh)


def own_config(source: str | Path, revision: str | None = None) -> DetectorConfig | None:
    """The detector in a folder that `save_weights` wrote; None where another layout is stored.

    Raises:
        ValueError: If the source is missing, or its description is unusable.
    """
    path = find_source(source, revision)
    if not path.is_dir():
        return None
    description = read_json(path / "config.json")
    if description.get("format") != "saccade":
        return None
    with _naming(path / "config.json"):
        return _own_config(description)


def _read(source: str | Path, known: DetectorConfig | None, revision: str | None) -> LoadedWeights:
    """What is stored, as it is; `known` settles what an official file does not tell."""
    path = find_source(source, revision)
    layout, config, translated = _read_folder(path) if path.is_dir() else _read_file(path, known)
    state = {key: _as_float32(tensor) for key, tensor in translated.state.items()}
    surplus = check_fit(config, state, str(path))
    for key in surplus:
        del state[key]
    report = LoadReport(
        str(source), layout, count_parts(state), left_out=(*translated.left_out, *surplus)
    )
    return LoadedWeights(config, state, report)


def _adapted(
    stored: LoadedWeights, wanted: DetectorConfig, fresh: Mapping[str, Tensor] | None = None
) -> LoadedWeights:
    found, report = stored.config, stored.report
    adapted = adapt(found, stored.state, wanted, fresh)
    counts = (found.queries.num_queries, wanted.queries.num_queries)
    report = replace(
        report,
        parts=count_parts(adapted.state, adapted.from_file),
        classes=adapted.classes if found.class_names != wanted.class_names else None,
        queries=counts if counts[0] != counts[1] else None,
        left_out=(*report.left_out, *adapted.left_out),
        added=adapted.added,
        random=adapted.random,
    )
    return LoadedWeights(wanted, adapted.state, report)


def _read_file(path: Path, preset: DetectorConfig | None) -> tuple[str, DetectorConfig, Translated]:
    state, args = read_checkpoint(path)
    state = _without_counters(state)
    with _naming(path):
        config = recognise_official(state, args, preset)
        return "official", config, to_ours(state, official_keys(config))


def _read_folder(folder: Path) -> tuple[str, DetectorConfig, Translated]:
    description = read_json(folder / "config.json")
    state = read_tensors(folder)
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
