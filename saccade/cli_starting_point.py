"""The run that the options of a command change: of a preset, a file, or given weights."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from saccade.config import DetectorConfig
from saccade.fine_tuning import fine_tuning
from saccade.presets import preset_config
from saccade.recipes import RecipeName, for_detector, with_mixed_queries
from saccade.run_config import RunConfig
from saccade.settings import read_yaml

DEFAULT_PRESET = "deformable-detr-r50-two-stage"


def starting_point(arguments: Sequence[str]) -> RunConfig:
    """The run whose values the other options become.

    Args:
        arguments: Of `saccade train` or `saccade doctor`; all but the few that choose the run are
            passed over.

    Raises:
        ValueError: If these contradict each other, or name a file that is unusable.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    first.add_argument("--recipe")
    first.add_argument("--config", type=Path)
    first.add_argument("--weights")
    first.add_argument("--out", type=Path)
    first.add_argument("--resume", action="store_true")
    chosen, _ = first.parse_known_args(arguments)
    if chosen.preset and (chosen.config or chosen.resume):
        raise ValueError(
            "--preset cannot be given with --config or --resume: these say already what the "
            "detector is."
        )
    if chosen.recipe and (chosen.config or chosen.resume):
        raise ValueError(
            "--recipe cannot be given with --config or --resume: these say already how the "
            "detector is trained."
        )
    recipe: RecipeName = chosen.recipe or "fast"
    if chosen.resume:
        if chosen.out is None:
            raise ValueError("--resume needs the folder of the run: name it with --out.")
        return read_yaml(chosen.out / "config.yaml")
    if chosen.config is not None:
        return read_yaml(chosen.config)
    # The dataset brings the classes; COCO's would only fill the help.
    if chosen.weights is not None:
        return fine_tuning(for_detector(_model_of(chosen.weights, chosen.preset), recipe))
    model = preset_config(chosen.preset or DEFAULT_PRESET, class_names=["object"])
    return for_detector(with_mixed_queries(model) if recipe == "fast" else model, recipe)


def _model_of(weights: str, preset: str | None) -> DetectorConfig:
    """What is built for given weights: the detector that they are of, or a preset."""
    from saccade.weights import load_weights, own_config

    if preset is None:
        return replace(load_weights(weights).config, class_names=("object",))
    model, stored = preset_config(preset, class_names=["object"]), own_config(weights)
    if stored is None or stored.queries.source != model.queries.source:
        return model
    # A run of the fast recipe has mixed queries, which its preset has not.
    return replace(model, queries=replace(model.queries, content=stored.queries.content))
