"""An examination from end to end: annotations, images, recipe, and what a run costs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from saccade.advice import advice, few_steps
from saccade.data import Split, find_split
from saccade.doctor.box_checks import box_findings
from saccade.doctor.class_checks import class_findings
from saccade.doctor.cost import cost_findings, measure_cost
from saccade.doctor.crowding import crowding_findings
from saccade.doctor.findings import Finding, Severity, worst_first
from saccade.doctor.image_checks import image_findings
from saccade.doctor.label_numbers import number_findings
from saccade.doctor.reading import read_tables
from saccade.doctor.recipe_lint import lint_recipe, lint_steps
from saccade.doctor.size_checks import size_findings
from saccade.doctor.tables import SplitTable, Tables
from saccade.run_config import RunConfig

Stage = Callable[[str, int | None], Callable[[int], None]]
"""Told that something begins, and how much there is of it; what it returns is told how much more
of it is done."""


@dataclass(frozen=True)
class Examination:
    """A dataset as the doctor saw it."""

    name: str
    """Of the dataset."""
    detector: str
    """For which it was judged: a preset, or where weights come from."""
    config: RunConfig
    tables: Tables
    findings: tuple[Finding, ...]
    """The worst first."""


def examine(
    folder: Path,
    config: RunConfig,
    detector: str,
    stage: Stage,
    *,
    measured: bool = True,
    num_processes: int | None = None,
) -> Examination:
    """Look at everything.

    Args:
        folder: Of the dataset.
        config: The run that is planned; its classes are replaced by those of the dataset.
        detector: What its detector is called.
        stage: Shown what goes on.
        measured: Whether to take training steps.
        num_processes: That read images; see `scan_images`.

    Raises:
        ValueError: If there is no dataset, or no split to train on.
    """
    stage("reading annotations", None)
    tables, findings = read_tables(folder, config.train_split, config.val_split)
    train = tables.of_training
    if tables.class_names:
        names = (
            tables.class_names if train is None else tuple(train.annotations.categories.values())
        )
        config = replace(config, model=replace(config.model, class_names=names))
    findings += annotation_findings(tables, config, _splits(folder, tables))
    advance = stage("looking at images", sum(len(each.sizes) for each in tables.splits.values()))
    findings += image_findings(
        tables, advance, num_processes, skipped=config.on_broken_image == "skip"
    )
    if train is not None and len(train.sizes):
        findings += _recipe(config, train)
        if measured and train.trained.any():
            tick = stage("taking training steps", None)
            cost = measure_cost(train, config, lambda: tick(0))
            findings += cost_findings(cost, config, len(train.sizes))
    return Examination(
        folder.resolve().name, detector, config, tables, tuple(worst_first(findings))
    )


def annotation_findings(
    tables: Tables, config: RunConfig, splits: dict[str, Split]
) -> list[Finding]:
    """What the annotations tell without a look at any image."""
    return [
        *number_findings(tables, splits),
        *class_findings(tables),
        *box_findings(tables, splits),
        *crowding_findings(tables, config),
        *size_findings(tables, config),
    ]


def _recipe(config: RunConfig, train: SplitTable) -> list[Finding]:
    num_images = len(train.sizes)
    too_short = lint_steps(config, num_images)
    said = few_steps(config, num_images) if too_short else []
    # Without the number of objects: the classes are looked at one by one.
    advised = [
        Finding(Severity.INFORMATION, "recipe", sentence.rstrip("."))
        for sentence in advice(config, num_images, 0)
        if sentence not in said
    ]
    return [*lint_recipe(config, num_images), *too_short, *advised]


def _splits(folder: Path, tables: Tables) -> dict[str, Split]:
    return {name: find_split(folder, name) for name in tables.splits}
