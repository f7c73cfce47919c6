"""What is printed where no terminal draws a bar, and what a terminal shows."""

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from rich.console import Console

from saccade.run import train
from saccade.run_config import RunConfig
from saccade.training import display
from saccade.training.checkpoint import Progress
from saccade.training.display import Display
from saccade.training.records import EvaluationRecords
from tests.conftest import small_config

LOSSES = {name: torch.tensor(0.25) for name in display.SHOWN.values()}
NUMBERS = {"AP": 0.125, "AP50": 0.5, "AP75": 0.25}


def shown(config: RunConfig, records: EvaluationRecords, terminal: bool) -> tuple[Display, Console]:
    fabric = Fabric(accelerator="cpu", devices=1)
    one = Display(fabric, config, 10, Progress(), records)
    console = Console(file=io.StringIO(), force_terminal=terminal, width=150, highlight=False)
    one.console = one.live.console = console
    return one, console


def take_steps(one: Display, seconds: list[float]) -> Progress:
    progress = Progress()
    for index, passed in enumerate(seconds, start=1):
        progress.seconds, progress.step = passed, index
        one.step(progress, index, torch.tensor(7.5), LOSSES, 2e-4, 4)
    return progress


@pytest.fixture
def records(tmp_path: Path) -> EvaluationRecords:
    return EvaluationRecords(tmp_path / "evaluations.jsonl")


def test_a_log_gets_whole_lines(
    records: EvaluationRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SHOW_EVERY_SECONDS", "PRINT_EVERY_SECONDS", "FIRST_PRINT_SECONDS"):
        monkeypatch.setattr(display, name, -1.0)
    config = RunConfig(model=small_config("detr"), epochs=2, trackers=())
    one, console = shown(config, records, terminal=False)
    with one:
        take_steps(one, [0.0, 1.0, 2.0, 3.0, 4.0])
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 4
    assert "\x1b" not in console.file.getvalue()
    assert lines[-1].startswith("epoch 1/2, step 5, 25 %:  loss 7.50 (class 0.250, L1 0.250,")
    assert "lr 2.0e-04" in lines[-1]
    # The first step takes no time: sixteen images in four seconds, and three quarters to go.
    assert "0 % waiting for data  4.0 images/s  0:00:12 left" in lines[-1]


def test_a_log_gets_a_line_a_minute(records: EvaluationRecords) -> None:
    one, console = shown(RunConfig(model=small_config("detr")), records, terminal=False)
    with one:
        take_steps(one, [0.0, 1.0, 2.0])
    assert console.file.getvalue() == ""


def test_a_terminal_shows_a_bar_with_everything(
    records: EvaluationRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "SHOW_EVERY_SECONDS", -1.0)
    records.add(Progress(epoch=1), NUMBERS | {"AP": 0.3})
    one, console = shown(RunConfig(model=small_config("detr"), minutes=1.0), records, terminal=True)
    with one:
        progress = take_steps(one, [0.0, 15.0])
        one.evaluating()
        one.evaluated(progress, NUMBERS)
        progress.seconds = 30.0
        one.step(progress, 3, torch.tensor(7.5), LOSSES, 2e-4, 4)
    drawn = console.file.getvalue()
    assert "━" in drawn
    for said in ("25 %", "0:00:45 left", "AP 30.0, best 30.0", "AP 12.5, best 30.0", "50 %"):
        assert said in drawn, said
    assert "after 0:15 min, step 2:  AP 12.5  AP50 50.0  AP75 25.0\n" in drawn


def test_the_best_evaluation_so_far_is_told(records: EvaluationRecords) -> None:
    one, console = shown(RunConfig(model=small_config("detr")), records, terminal=False)
    for precision in (0.125, 0.25, 0.25):
        one.evaluating()
        one.evaluated(Progress(epoch=1), NUMBERS | {"AP": precision})
    said = [line.endswith("(the best so far)") for line in console.file.getvalue().splitlines()]
    assert said == [True, True, False]


def test_the_end_is_reckoned_with_the_evaluations_to_come(records: EvaluationRecords) -> None:
    config = RunConfig(model=small_config("detr"), epochs=4, num_evaluations=4)
    one, _ = shown(config, records, terminal=False)
    progress = Progress(epoch=2, seconds=20.0)
    assert one._left(progress, 0.5) == "0:00:20 left"
    one.seconds_of_evaluations = [5.0, 7.0]
    assert one._left(progress, 0.5) == "0:00:32 left"
    assert one._left(Progress(), 0.0) == "-"


def test_waiting_for_data_is_warned_of_and_logged(
    run: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(display, "SHOW_EVERY_SECONDS", -1.0)
    monkeypatch.setattr("saccade.training.waiting.LEAST_SECONDS", 0.0)
    monkeypatch.setattr("saccade.training.waiting.LARGEST_SHARE", -1.0)
    train(replace(run, epochs=3, batch_size=1, num_evaluations=1), tmp_path / "run")
    said = capsys.readouterr().out
    assert said.count("of its time for images") == 1
    table = (tmp_path / "run" / "csv" / "session-1" / "metrics.csv").read_text().splitlines()
    assert "data_wait" in table[0].split(",")


def test_where_nothing_is_to_find_there_is_no_percentage(records: EvaluationRecords) -> None:
    one, console = shown(RunConfig(model=small_config("detr")), records, terminal=False)
    one.evaluating()
    one.evaluated(Progress(epoch=1, step=2), dict.fromkeys(NUMBERS, -1.0))
    assert console.file.getvalue() == "epoch 1 of 50, step 2:  AP -  AP50 -  AP75 -\n"


def test_a_terminal_that_cannot_draw_gets_lines(
    records: EvaluationRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SHOW_EVERY_SECONDS", "PRINT_EVERY_SECONDS", "FIRST_PRINT_SECONDS"):
        monkeypatch.setattr(display, name, -1.0)
    monkeypatch.setenv("TERM", "dumb")
    one, console = shown(RunConfig(model=small_config("detr")), records, terminal=True)
    with one:
        take_steps(one, [0.0, 1.0])
    assert "epoch 1/50, step 2" in console.file.getvalue()


def test_other_processes_keep_their_own_output(
    records: EvaluationRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = shown(RunConfig(model=small_config("detr")), records, terminal=True)
    monkeypatch.setattr(Fabric, "is_global_zero", False)
    before = sys.stdout
    with one:
        assert sys.stdout is before


def test_a_run_that_is_resumed_logs_no_step_again(records: EvaluationRecords) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    progress = Progress(step=10, seconds=5.0)
    config = RunConfig(model=small_config("detr"))
    assert Display(fabric, config, 10, progress, records).logged == 10
