"""What a study's folder holds so far, read back from its run folders."""

import json
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

DONE = "done.json"
"""In a run's folder once it is complete: what it ran on."""
FAILED = "failed.txt"
"""In a run's folder if it could not go on: why."""

State = Literal["done", "failed", "unfinished"]


@dataclass(frozen=True)
class RunResult:
    """One run so far."""

    seed: int
    state: State
    problem: str
    """Why it failed."""
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

    def row(self, key: str) -> RowResult | None:
        """What a row has reached, if it has begun."""
        return next((each for each in self.rows if each.row.key == key), None)


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


def read_records(folder: Path) -> list[dict[str, float]]:
    """A run's evaluations; a line that is being written right now is left out."""
    file = folder / "evaluations.jsonl"
    if not file.exists():
        return []
    # What follows the last line break is no complete line.
    lines = file.read_text("utf-8").split("\n")[:-1]
    return [{name: float(value) for name, value in json.loads(line).items()} for line in lines]


def last_record(folder: Path) -> dict[str, float]:
    """A run's last evaluation, empty before the first."""
    return (read_records(folder) or [{}])[-1]


def _read_row(row: Row, settings: StudySettings, folder: Path) -> RowResult | None:
    names = (each.name for each in folder.glob("seed-*"))
    seeds = sorted(int(name.removeprefix("seed-")) for name in names)
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
    records = [{**each, "epochs": each["step"] / steps} for each in read_records(folder)]
    done, failed = folder / DONE, folder / FAILED
    problem = failed.read_text("utf-8").strip() if failed.exists() else ""
    return RunResult(
        seed=seed,
        state="failed" if problem else "done" if done.exists() else "unfinished",
        problem=problem,
        records=records,
        facts=json.loads(done.read_text("utf-8")) if done.exists() else {},
    )
