"""Trains what a study compares: ordinary run folders, OUT/ROW/seed-N, and a report beside them."""

import gc
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from saccade.analysis.study.arguments import StudyArguments
from saccade.analysis.study.files import write_text
from saccade.analysis.study.lists import STUDIES
from saccade.analysis.study.report import write_report
from saccade.analysis.study.results import DONE, FAILED, evaluations, is_done
from saccade.analysis.study.rows import Row
from saccade.analysis.study.settings import (
    StudySettings,
    keep_settings,
    read_settings,
    run_config,
    settings_for,
)
from saccade.analysis.study.turns import Turns
from saccade.bench.machine import machine
from saccade.data.shapes import holds_shapes, write_shapes
from saccade.run import train
from saccade.run_config import RunConfig
from saccade.settings import read_yaml

SHAPES = {"num_train": 48, "num_val": 24, "side": 128}
"""The dataset of --smoke."""


@dataclass(frozen=True)
class Run:
    """One detector with one seed."""

    row: Row
    seed: int
    config: RunConfig
    """As it would be trained now."""

    @property
    def place(self) -> Path:
        """Its folder in the study's."""
        return Path(self.row.key, f"seed-{self.seed}")


def run_study(arguments: StudyArguments, turns: Turns) -> int:
    """`saccade study`, in one of the processes that share its runs.

    Returns:
        0, or 2 if a run could not be trained.

    Raises:
        ValueError: If the dataset or an argument is unusable, or the folder holds another study.
    """
    if arguments.num_threads is not None:
        torch.set_num_threads(arguments.num_threads)
    out = _folder(arguments)
    if arguments.report_only:
        if turns.rank == 0:
            _report(out, arguments.name)
        return 0
    data = arguments.data or out / "shapes"
    if turns.rank > 0:
        turns.wait_for_first("prepared")
    elif arguments.data is None and not holds_shapes(data):
        write_shapes(data, **SHAPES)
    settings = settings_for(arguments, data)
    rows = STUDIES[arguments.name].pick(settings.size, arguments.rows)
    keep_settings(settings, out)
    runs = [
        Run(row, seed, run_config(row, settings, seed, data, arguments.num_workers))
        for seed in arguments.seeds
        for row in rows
    ]
    runs = _in_order(runs, turns)
    for run in runs:
        check_unchanged(run.config, out / run.place)
    if turns.rank == 0:
        print(_announcement(arguments, settings, rows, turns.world_size), flush=True)
    turns.arrive("prepared")
    while (number := turns.take()) < len(runs):
        run = runs[number]
        title = f"{run.row.key}, seed {run.seed} ({number + 1} of {len(runs)})"
        if is_done(out / run.place):
            print(f"{title}: done before", flush=True)
            continue
        _train(run.config, title, out / run.place, shown=turns.world_size == 1)
    turns.arrive("trained")
    if turns.rank > 0:
        return 0
    turns.wait_for_all("trained")
    _report(out, arguments.name)
    return 0 if all(is_done(out / run.place) for run in runs) else 2


def check_unchanged(now: RunConfig, folder: Path) -> None:
    """Compare the run that a folder holds, if any, with the one that would be trained now.

    Raises:
        ValueError: If they differ: the preset, the recipe or the library's defaults are others.
    """
    file = folder / "config.yaml"
    if not file.exists():
        return
    kept = read_yaml(file)
    # What neither the run's weights nor its figures depend on.
    kept = replace(
        kept,
        model=replace(kept.model, class_names=now.model.class_names),
        data=now.data,
        num_workers=now.num_workers,
        pictures=now.pictures,
        report=now.report,
        trackers=now.trackers,
    )
    differing = [
        field.name
        for field in fields(RunConfig)
        if getattr(kept, field.name) != getattr(now, field.name)
    ]
    if differing:
        raise ValueError(
            f"{file} differs from what this version of saccade would train now, in "
            f"{', '.join(differing)}: name another folder (--out), or remove that run's."
        )


def train_run(config: RunConfig, folder: Path) -> None:
    """Train one run from where its folder is.

    Raises:
        ValueError: If it cannot be trained.
        OSError: If there is no room for its files.
        RuntimeError: If the device or a process that reads images fails.
    """
    (folder / FAILED).unlink(missing_ok=True)
    detector = train(config, folder, resume=(folder / "last.ckpt").exists())
    facts = machine(detector.device) | {"torch": torch.__version__}
    write_text(folder / DONE, json.dumps(facts, indent=2) + "\n")
    # Only going on with the run needs it, and it is larger than all else.
    (folder / "last.ckpt").unlink()


def _train(config: RunConfig, title: str, folder: Path, shown: bool) -> None:
    print(f"{title}: training", flush=True)
    try:
        with nullcontext() if shown else _into_log(folder):
            train_run(config, folder)
    except (ValueError, OSError, RuntimeError) as error:
        # Out of memory, or a killed process: not in words of ours.
        kind = f"{type(error).__name__}: " if isinstance(error, RuntimeError) else ""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / FAILED, f"{kind}{error}\n")
        print(f"saccade study: {title} failed: {kind}{error}", file=sys.stderr, flush=True)
    else:
        print(f"{title}: AP {100 * evaluations(folder).read()[-1]['AP']:.1f}", flush=True)
    # What a run leaves on the device would be missing to the next one, which will tell it by
    # itself if the device is broken.
    gc.collect()
    with suppress(RuntimeError):
        torch.cuda.empty_cache()


@contextmanager
def _into_log(folder: Path) -> Iterator[None]:
    """Several processes that print at once cannot be told apart."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as file, redirect_stdout(file):
        yield


def _in_order(runs: list[Run], turns: Turns) -> list[Run]:
    """The longest first where processes share them, so that all end at about the same time."""
    if turns.world_size == 1:
        return runs
    return sorted(runs, key=lambda run: -run.row.times)


def _folder(arguments: StudyArguments) -> Path:
    if arguments.data is None and not (arguments.smoke or arguments.report_only):
        raise ValueError("no dataset: name its folder with --data, or try --smoke.")
    if arguments.out is not None:
        return arguments.out
    if arguments.data is None and not arguments.smoke:
        raise ValueError("--report-only needs the folder of the study: name it with --out.")
    ending = "smoke" if arguments.data is None else arguments.data.resolve().name
    return Path("runs", "study", f"{arguments.name}-{ending}")


def _announcement(
    arguments: StudyArguments, settings: StudySettings, rows: Sequence[Row], num_processes: int
) -> str:
    why = ""
    if arguments.size is None and not arguments.smoke:
        why = " (there is a GPU)" if settings.size == "r50" else " (there is no GPU)"
    budget = f"{settings.minutes or 0:g} minutes"
    if settings.epochs is not None:
        budget = _counted(settings.epochs, "epoch")
    longer = sorted({row.times for row in rows if row.times > 1})
    budget += "".join(f" ({times} times as many for some)" for times in longer)
    data = settings.data
    return (
        f"{settings.study} at the size {settings.size}{why}: {_counted(len(rows), 'detector')} "
        f"with {_counted(len(arguments.seeds), 'seed')}, {budget} on {data.name}, {data.num_train} "
        f"images to train and {data.num_val} to evaluate; in "
        f"{_counted(num_processes, 'process', 'processes')}."
    )


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _report(out: Path, name: str) -> None:
    settings = read_settings(out)
    if settings.study != name:
        raise ValueError(
            f'{out} holds the study "{settings.study}", not "{name}": name another folder (--out).'
        )
    print(f"\nThe report is {write_report(out)}, and report.md beside it.")
