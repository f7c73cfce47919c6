"""How a study was made: command, data, recipe and machine, without anybody's paths."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial

from saccade.analysis.study.document import Block, Bullets, Code, Heading
from saccade.analysis.study.findings import seeds_of
from saccade.analysis.study.results import RowResult, StudyResult
from saccade.recipe_config import LossConfig, OptimizerConfig
from saccade.run_config import RunConfig


def conditions(result: StudyResult) -> list[Block]:
    """The last part of the report."""
    data = result.settings.data
    small, medium, large = data.val_objects
    height, width = data.image_size
    config = next((row.config for row in result.rows if row.config is not None), None)
    classes = f"{data.num_classes} class{'' if data.num_classes == 1 else 'es'}"
    lines = [
        f"Data: {data.name}, {classes}, {data.num_train} images to train and "
        f"{data.num_val} to validate with {small} small, {medium} medium and {large} large "
        f"objects (limits 32 x 32 and 96 x 96 pixels); most images are {width} x {height} pixels, "
        f"scaled to a shorter side of {result.settings.short_side}.",
        f"Seeds: {', '.join(map(str, seeds_of(result.rows)))}.",
    ]
    if config is not None:
        lines.append(_recipe(result))
    machines = dict.fromkeys(
        _machine(run.facts) for row in result.rows for run in row.runs if run.facts
    )
    lines += [f"Machine: {machine}." for machine in machines]
    return [Heading("How it was made"), Code(command(result)), Bullets(lines)]


def _recipe(result: StudyResult) -> str:
    """What the rows are trained with; of losses and optimiser, what differs."""
    rows = result.rows
    rates = _by_value(rows, lambda run: f"{run.optimizer.learning_rate:g}")
    images = _by_value(rows, lambda run: str(run.batch_size * run.accumulate))
    parts = [f"Learning rate {_said(rates)}", f"images in a step {_said(images)}"]
    for part, kind in (("optimizer", OptimizerConfig), ("loss", LossConfig)):
        for name in (field.name for field in fields(kind) if field.name != "learning_rate"):
            values = _by_value(rows, partial(_value, part=part, name=name))
            if len(values) > 1:
                parts.append(f"{name.replace('_', ' ')} {_said(values)}")
    return (
        f"{'; '.join(parts)}; augmentation and schedule are the same for all rows. Every run's "
        "config.yaml holds its complete recipe."
    )


def _value(run: RunConfig, part: str, name: str) -> str:
    value = getattr(getattr(run, part), name)
    if name == "clip_norm" and not value:
        return "none"
    return str(value) if isinstance(value, bool | str) else f"{value:g}"


def _by_value(rows: Sequence[RowResult], value: Callable[[RunConfig], str]) -> dict[str, list[str]]:
    """The values of the rows, and which rows have them."""
    keys: dict[str, list[str]] = {}
    for row in rows:
        if row.config is not None:
            keys.setdefault(value(row.config), []).append(row.row.key)
    return keys


def _said(values: Mapping[str, Sequence[str]]) -> str:
    if len(values) == 1:
        return next(iter(values))
    return ", ".join(f"{value} ({' '.join(rows)})" for value, rows in values.items())


def _machine(facts: dict[str, str | int]) -> str:
    cores = f"{facts['processor']}, {facts['threads']} of {facts['cores']} cores"
    gpu = f"{facts['gpu']}; " if "gpu" in facts else ""
    return f"{gpu}{cores}, torch {facts['torch']}"


def command(result: StudyResult) -> str:
    """The command that repeats a study; FOLDER stands for where the dataset is."""
    settings = result.settings
    data = shlex.quote(f"FOLDER/{settings.data.name}")
    words = [f"saccade study {settings.study} {'--smoke' if settings.smoke else f'--data {data}'}"]
    words.append(f"--size {settings.size}")
    if settings.minutes is not None:
        words.append(f"--minutes {settings.minutes:g}")
    else:
        words.append(f"--epochs {settings.epochs}")
    words.append(f"--short-side {settings.short_side}")
    if settings.batch_size is not None:
        words.append(f"--batch-size {settings.batch_size}")
    words.append(f"--num-evaluations {settings.num_evaluations}")
    if settings.learning_rates:
        rates = (
            f"{row}={rate:g}" if row else f"{rate:g}"
            for row, rate in settings.learning_rates.items()
        )
        words.append(f"--learning-rates {' '.join(rates)}")
    threads = {run.facts["threads"] for row in result.rows for run in row.runs if run.facts}
    if len(threads) == 1:
        words.append(f"--num-threads {threads.pop()}")
    words.append(f"--seeds {' '.join(map(str, seeds_of(result.rows)))}")
    if result.missing:
        words.append(f"--rows {' '.join(each.row.key for each in result.rows)}")
    return " \\\n  ".join(words)
