"""What all runs of a study have in common, kept in its folder, and the runs that follow of it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from saccade.analysis.study.arguments import StudyArguments
from saccade.analysis.study.detectors import resized
from saccade.analysis.study.files import write_text
from saccade.analysis.study.lists import STUDIES
from saccade.analysis.study.rows import Row, Size, Study
from saccade.config_json import from_dict, to_dict
from saccade.data import Annotations, find_split
from saccade.recipe_config import AugmentationConfig, ScheduleConfig
from saccade.recipes import paper, small
from saccade.run_config import RunConfig

DEFAULT_EPOCHS = 50
DEFAULT_EVALUATIONS = 25
SMOKE = {"epochs": 3, "short_side": 96, "num_evaluations": 4}
"""What --smoke takes instead of the defaults."""
FILE = "study.json"


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """Which dataset a study is about."""

    name: str
    """The last part of its folder's path."""
    num_classes: int
    num_train: int
    """Images."""
    num_val: int
    """Images."""
    val_objects: tuple[int, int, int]
    """Small, medium and large ones, by COCO's limits."""
    image_size: tuple[int, int]
    """(height, width) that most images of val have, in pixels."""
    fingerprint: str
    """Of the annotation files."""


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """What all runs of a study have in common."""

    study: str
    size: Size
    epochs: int | None
    """Of a row with `times` 1, unless `minutes` are given."""
    minutes: float | None
    short_side: int
    """Pixels."""
    batch_size: int | None
    num_evaluations: int
    learning_rates: dict[str, float]
    """Of the rows whose recipe's is replaced; "" stands for all rows."""
    data: DataSummary
    smoke: bool = False
    """Whether --smoke generated the data."""


def settings_for(arguments: StudyArguments, data: Path) -> StudySettings:
    """The settings that the arguments and the defaults make.

    Raises:
        OSError: If an annotation file cannot be opened.
        ValueError: If the dataset or an argument is unusable.
    """
    study = STUDIES[arguments.name]
    size = arguments.size or default_size(arguments)
    smoke = SMOKE if arguments.smoke else {}
    epochs = arguments.epochs
    if epochs is None and arguments.minutes is None:
        epochs = smoke.get("epochs", DEFAULT_EPOCHS)
    first = study.pick(size)[0].build(size).input.short_side
    return StudySettings(
        study=study.name,
        size=size,
        epochs=epochs,
        minutes=arguments.minutes,
        short_side=arguments.short_side or smoke.get("short_side", first),
        batch_size=arguments.batch_size,
        num_evaluations=arguments.num_evaluations
        or smoke.get("num_evaluations", DEFAULT_EVALUATIONS),
        learning_rates=_learning_rates(arguments.learning_rates, study, size),
        data=summarise(data),
        smoke=arguments.smoke and arguments.data is None,
    )


def default_size(arguments: StudyArguments) -> Size:
    """Nano without a GPU and for smoke, r50 with one."""
    return "r50" if torch.cuda.is_available() and not arguments.smoke else "nano"


def summarise(folder: Path) -> DataSummary:
    """Read the annotations of train and val."""
    splits = [find_split(folder, name) for name in ("train", "val")]
    train, val = (split.read() for split in splits)
    files = [file for split in splits for file in split.annotation_files()]
    sizes = [image.size for image in val.images]
    return DataSummary(
        name=folder.resolve().name,
        num_classes=len(train.categories),
        num_train=len(train.images),
        num_val=len(val.images),
        val_objects=_by_size(val),
        image_size=max(dict.fromkeys(sizes), key=sizes.count, default=(1, 1)),
        fingerprint=hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16],
    )


def run_config(
    row: Row, settings: StudySettings, seed: int, data: Path, num_workers: int | None = None
) -> RunConfig:
    """One run of a study.

    Augmentation and schedule are the same for all rows; losses, learning rates and the images of a
    step are those of the row's recipe, as are `num_workers` for None.

    Raises:
        ValueError: If there is no such detector.
    """
    published = row.build(settings.size)
    model = resized(published, settings.short_side)
    if settings.size == "nano":
        recipe = small(model)
        # The losses that were published for the detectors.
        recipe = replace(recipe, loss=replace(recipe.loss, quality="none"))
    else:
        factor = settings.short_side / published.input.short_side
        recipe = replace(paper(model), augmentation=_scaled(factor), schedule=ScheduleConfig())
    if settings.batch_size is not None:
        images = recipe.batch_size * recipe.accumulate
        several = settings.size == "r50"
        recipe = replace(
            recipe,
            batch_size=settings.batch_size,
            accumulate=max(1, round(images / settings.batch_size)) if several else 1,
        )
    rates = settings.learning_rates
    rate = rates.get(row.key, rates.get("", recipe.optimizer.learning_rate))
    return replace(
        recipe,
        data=str(data),
        num_workers=recipe.num_workers if num_workers is None else num_workers,
        optimizer=replace(recipe.optimizer, learning_rate=rate),
        epochs=(settings.epochs or DEFAULT_EPOCHS) * row.times,
        minutes=None if settings.minutes is None else settings.minutes * row.times,
        num_evaluations=settings.num_evaluations,
        pictures=0,
        report=False,
        seed=seed,
    )


def keep_settings(settings: StudySettings, out: Path) -> None:
    """Write the settings into the study's folder, or compare them with those that are there.

    Raises:
        ValueError: If the folder holds a study with other settings.
    """
    file = out / FILE
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(to_dict(settings), indent=2) + "\n")
        return
    kept = read_settings(out)
    differences = [
        f"{field.name} {_said(before)}, now {_said(now)}"
        for field in fields(StudySettings)
        if field.name != "smoke"
        and _identity(before := getattr(kept, field.name))
        != _identity(now := getattr(settings, field.name))
    ]
    if differences:
        raise ValueError(
            f"{out} holds a study with other settings ({'; '.join(differences)}): repeat them, or "
            "name another folder (--out)."
        )


def read_settings(out: Path) -> StudySettings:
    """What `keep_settings` wrote.

    Raises:
        ValueError: If the folder holds no study, or not one that can be read.
    """
    file = out / FILE
    if not file.exists():
        raise ValueError(f"{out} holds no study: it has no {FILE}; name its folder with --out.")
    try:
        return from_dict(StudySettings, json.loads(file.read_text("utf-8")))
    except ValueError as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def _learning_rates(given: Sequence[str], study: Study, size: Size) -> dict[str, float]:
    rates: dict[str, float] = {}
    for entry in given:
        row, _, number = entry.rpartition("=")
        try:
            rate = float(number)
        except ValueError:
            rate = -1.0
        if not 0 < rate < 1:
            raise ValueError(
                f'--learning-rates has "{entry}": expected ROW=RATE or RATE, such as '
                f"{study.pick(size)[0].key}=2e-4."
            )
        if row:
            study.pick(size, [row])
        rates[row] = rate
    return dict(sorted(rates.items()))


def _scaled(factor: float) -> AugmentationConfig:
    """DETR's augmentation for images of another size."""
    usual = AugmentationConfig()
    least, most = (round(side * factor) for side in usual.crop_sides)
    return replace(
        usual,
        short_sides=tuple(round(side * factor) for side in usual.short_sides),
        max_side=round(usual.max_side * factor),
        crop_short_sides=tuple(round(side * factor) for side in usual.crop_short_sides),
        crop_sides=(least, most),
    )


def _by_size(annotations: Annotations) -> tuple[int, int, int]:
    areas = [entry.area for entry in annotations.objects if not entry.crowd]
    small_ones = sum(area < 32**2 for area in areas)
    large_ones = sum(area >= 96**2 for area in areas)
    return small_ones, len(areas) - small_ones - large_ones, large_ones


def _identity(value: object) -> object:
    """What has to be the same: a dataset may be moved and renamed."""
    return value.fingerprint if isinstance(value, DataSummary) else value


def _said(value: object) -> str:
    if isinstance(value, DataSummary):
        return f"{value.name} ({value.num_train} + {value.num_val} images, {value.fingerprint})"
    if isinstance(value, Mapping):
        pairs = (f"{key}={each}" if key else str(each) for key, each in value.items())
        return " ".join(pairs) or "of the recipes"
    return "unset" if value is None else str(value)
