"""How a study was made: command, data, recipe and machine, without anybody's paths."""

from collections.abc import Mapping, Sequence

from saccade.analysis.study.document import Block, Bullets, Code, Heading
from saccade.analysis.study.findings import seeds_of
from saccade.analysis.study.results import StudyResult


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
    rates: dict[str, list[str]] = {}
    images: dict[str, list[str]] = {}
    for row in result.rows:
        if row.config is not None:
            rate = f"{row.config.optimizer.learning_rate:g}"
            step = str(row.config.batch_size * row.config.accumulate)
            rates.setdefault(rate, []).append(row.row.key)
            images.setdefault(step, []).append(row.row.key)
    return (
        f"Learning rate {_by_row(rates)}; images in a step {_by_row(images)}; augmentation and "
        "schedule are the same for all rows. Every run's config.yaml holds its complete recipe."
    )


def _by_row(values: Mapping[str, Sequence[str]]) -> str:
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
    words = [f"saccade study {settings.study} --data FOLDER/{settings.data.name}"]
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
    words.append(f"--seeds {' '.join(map(str, seeds_of(result.rows)))}")
    if result.missing:
        words.append(f"--rows {' '.join(each.row.key for each in result.rows)}")
    return " \\\n  ".join(words)
