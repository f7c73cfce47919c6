"""What a study's folder holds so far, read back from its run folders."""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from saccade.analysis.counts import Counts, count
from saccade.analysis.study.lists import STUDIES
from saccade.analysis.study.rows import Row, Study
from saccade.analysis.study.settings import StudySettings, read_settings
from saccade.data.transforms import resized_size
from saccade.run_config import RunConfig
from saccade.settings import read_yaml
from saccade.training.records import EvaluationRecords

DONE = "done.json"
"""In a run's folder once it is complete: what it ran on."""
FAILED = "failed.txt"
"""In a run's folder if it could not go on: why."""

FACTS = ("processor", "cores", "threads", "torch")
"""What it says at least."""

State = Literal["done", "failed", "unfinished"]


@dataclass(frozen=True)
class RunResult:
    """One run so far."""

    seed: int
    state: State
    problem: str
    """Why it failed, or what of it cannot be read."""
    records: list[dict[str, float]]
    """Its evaluations, with the fractional "epochs" that it had trained by then."""
    facts: dict[str, str | int]
    """What it ran on, once it is done."""

    @property
    def last(self) -> dict[str, float]:
        """The last evaluation, empty before the first."""
        return self.records[-1] if self.records else {}


@dataclass(frozen=True)
class RowResult:
    """All runs of one detector so far."""

    row: Row
    config: RunConfig | None
    """Of one of its runs, if one has begun to train."""
    data_size: tuple[int, int]
    """(height, width) of most images on disk, in pixels."""
    runs: tuple[RunResult, ...]

    @property
    def state(self) -> State:
        """Done if any run is: its figures are then those of the runs that are."""
        states = {run.state for run in self.runs}
        return next(each for each in ("done", "unfinished", "failed") if each in states)

    @property
    def counted(self) -> tuple[RunResult, ...]:
        """The runs that figures are taken of: those that are done, else all with an evaluation."""
        done = tuple(run for run in self.runs if run.state == "done")
        return done or tuple(run for run in self.runs if run.records)

    @cached_property
    def costs(self) -> Counts | None:
        """Parameters, and FLOPs at the size images are trained at, if these can be counted."""
        if self.config is None:
            return None
        sides = self.config.model.input
        size = resized_size(self.data_size, sides.short_side, sides.max_side)
        try:
            return count(self.config.model, size)
        except (ValueError, RuntimeError):
            return None

    def finals(self, name: str) -> list[float]:
        """The last figure of each run that counts, leaving out what nothing was there to find."""
        values = [run.last[name] for run in self.counted if run.last]
        return [value for value in values if value >= 0]

    def bests(self) -> list[float]:
        """The best AP of each run that counts."""
        return [max(record["AP"] for record in run.records) for run in self.counted if run.records]


@dataclass(frozen=True)
class StudyResult:
    """A study so far."""

    study: Study
    settings: StudySettings
    rows: tuple[RowResult, ...]
    """Those that have begun."""
    missing: tuple[Row, ...]
    """Those that have not."""


def read_study(out: Path) -> StudyResult:
    """Read a study's folder; its runs may still be going on.

    Raises:
        ValueError: If the folder holds no study.
    """
    settings = read_settings(out)
    study = STUDIES[settings.study]
    rows = {row: _read_row(row, settings, out / row.key) for row in study.pick(settings.size)}
    return StudyResult(
        study,
        settings,
        tuple(result for result in rows.values() if result is not None),
        tuple(row for row, result in rows.items() if result is None),
    )


def evaluations(folder: Path) -> EvaluationRecords:
    """Of a run, by its folder."""
    return EvaluationRecords(folder / "evaluations.jsonl")


def read_facts(folder: Path) -> dict[str, str | int] | None:
    """What a run ran on; None if it is not done.

    Raises:
        ValueError: If that is written, but cannot be read.
    """
    file = folder / DONE
    if not file.exists():
        return None
    try:
        facts = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{_place(file)} cannot be read: {error}") from error
    if not isinstance(facts, dict) or not facts.keys() >= set(FACTS):
        raise ValueError(f"{_place(file)} does not say on which {', '.join(FACTS)}.")
    return facts


def is_done(folder: Path) -> bool:
    """Whether a run is complete; where that cannot be read, it is not."""
    try:
        return read_facts(folder) is not None
    except ValueError:
        return False


def _place(file: Path) -> str:
    """A run's file by its place in the study's folder."""
    return Path(*file.parts[-3:]).as_posix()


def _read_row(row: Row, settings: StudySettings, folder: Path) -> RowResult | None:
    # Whatever else lies there, such as a copy or an archive of a run, is none of the study's.
    folders = [each.name for each in folder.glob("seed-*") if each.is_dir()]
    seeds = sorted(
        int(found[1])
        for name in folders
        if (found := re.fullmatch("seed-(0|[1-9][0-9]*)", name)) is not None
    )
    if not seeds:
        return None
    files = [folder / f"seed-{seed}" / "config.yaml" for seed in seeds]
    config = next((read_yaml(file) for file in files if file.exists()), None)
    runs = tuple(_read_run(folder / f"seed-{seed}", seed, config, settings) for seed in seeds)
    return RowResult(row, config, settings.data.image_size, runs)


def _read_run(
    folder: Path, seed: int, config: RunConfig | None, settings: StudySettings
) -> RunResult:
    steps = 1
    if config is not None:
        batches = max(1, settings.data.num_train // config.batch_size)
        steps = -(-batches // config.accumulate)
    records = [{**each, "epochs": each["step"] / steps} for each in evaluations(folder).read()]
    failed = folder / FAILED
    # In one line, as reports show it.
    problem = " ".join(failed.read_text("utf-8").split()) if failed.exists() else ""
    state: State = "failed" if problem else "unfinished"
    facts = None
    try:
        facts = read_facts(folder)
    except ValueError as error:
        problem = problem or str(error)
    if facts is not None and not problem:
        state = "done"
    return RunResult(seed, state, problem, records, facts or {})
