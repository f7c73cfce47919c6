from dataclasses import replace
from pathlib import Path

import pytest

from saccade.doctor import bounded, cost
from saccade.doctor.bounded import left_in_groups, run_module
from saccade.doctor.cost import Cost, Measured, cost_findings, measure_cost
from saccade.doctor.findings import Severity

from .datasets import alarming, nano, only, tables

GB = 10**9
COST = Cost(
    device="cpu, 2 threads",
    steps=(Measured(1, (240, 320), 1.0, 2 * GB), Measured(8, (240, 320), 6.0, 4 * GB)),
    usual=(240, 320),
    largest=(240, 400),
    batch_size=8,
    free=16 * GB,
)


def test_a_run_that_fits_is_told_how_long_it_takes() -> None:
    findings = cost_findings(COST, nano(epochs=50), 800)
    assert alarming(findings) == []
    memory, time = findings
    # (4 - 2) GB for seven images more, and a quarter of eight beyond.
    assert memory.what.startswith("training takes about 4.6 GB of the 16.0 GB of memory")
    assert "a batch of 8 images of 320 x 240 pixels takes 6 seconds" in time.what
    assert "an epoch of 100 batches 10 minutes, 50 epochs 8 hours" in time.what


def test_a_step_that_does_not_fit_hurts_whether_it_was_measured_or_foreseen() -> None:
    for unfit in (replace(COST, free=3 * GB), replace(COST, steps=(), too_large=True)):
        found = only(cost_findings(unfit, nano(), 800))
        assert found.severity is Severity.HURTS
        assert "does not fit into the" in found.what
        assert "--batch-size" in found.remedy


def test_one_small_step_does_not_foretell_the_memory_of_a_large_one() -> None:
    small = replace(COST, steps=(Measured(1, (120, 160), 0.5, 2 * GB),), base=GB, free=3 * GB)
    assert small.peak is None
    assert alarming(cost_findings(small, nano(), 800)) == []
    assert "at most, going by a batch of 1 image of 160 x 120, about 16 seconds" in (
        cost_findings(small, nano(), 800)[0].what
    )


def test_memory_is_foretold_from_where_the_process_began() -> None:
    single = replace(COST, steps=(Measured(8, (240, 320), 6.0, 4 * GB),), base=GB)
    assert single.peak == 4.75 * GB


def test_a_tight_fit_is_worth_a_look() -> None:
    assert only(cost_findings(replace(COST, free=5 * GB), nano(), 800)).severity is Severity.LOOK


def test_steps_that_take_too_long_or_fail_are_said() -> None:
    late = only(cost_findings(replace(COST, steps=()), nano(), 800))
    assert "not one training step was complete" in late.what
    failed = only(cost_findings(replace(COST, steps=(), failed="ValueError: no."), nano(), 800))
    assert "could not be measured (ValueError: no)" in failed.what


def test_minutes_are_told_in_epochs() -> None:
    findings = cost_findings(COST, nano(minutes=5.0), 800)
    assert "5 minutes are 0.5 epochs" in findings[1].what
    assert "after about 50% of an epoch" in only(findings).what


def test_modules_without_gradient_hurt() -> None:
    found = only(cost_findings(replace(COST, unreached=("decoder",)), nano(), 800))
    assert found.severity is Severity.HURTS


def test_a_process_that_takes_more_memory_than_is_free_is_ended() -> None:
    lines, why = run_module("this", {}, 0, lambda: None)
    assert (lines, why) == ([], "memory")


@pytest.mark.parametrize(
    ("limit", "used"),
    [
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ],
)
def test_files_that_were_read_do_not_take_a_containers_memory(
    tmp_path: Path, limit: str, used: str
) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / limit).write_text("8000000000\n")
    (tmp_path / used).write_text("7900000000\n")
    stat = (tmp_path / limit).parent / "memory.stat"
    stat.write_text("anon 100000000\ninactive_file 5000000000\nactive_file 1000000000\n")
    assert left_in_groups(tmp_path) == [6_100_000_000]
    (tmp_path / limit).write_text("max\n")
    assert left_in_groups(tmp_path) == []


def test_memory_of_a_process_is_asked_of_ps_where_no_file_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "ps"
    command.write_text('#!/bin/sh\ntest "$*" = "-o rss= -p 17" && echo "  2048"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert bounded._resident(17, tmp_path) == 2048 * 1024
    assert bounded._resident(18, tmp_path) == 0
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert bounded._resident(17, tmp_path) == 0


def test_only_a_process_that_was_killed_lacked_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "falls.py").write_text("import os, json\nos.kill(os.getpid(), json.load(open(0)))")
    # As if the dataset held a module of that name.
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "json.py").write_text("raise SystemExit('wrong json')")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(tmp_path)
    assert run_module("falls", 9, 10**15, lambda: None) == ([], "memory")  # type: ignore[arg-type]
    _, why = run_module("falls", 11, 10**15, lambda: None)  # type: ignore[arg-type]
    assert why == "the process was ended by signal 11"


def test_memory_that_is_not_known_is_not_told() -> None:
    unknown = replace(COST, steps=tuple(replace(each, peak=0) for each in COST.steps))
    assert [each.topic for each in cost_findings(unknown, nano(), 800)] == ["cost"]


def test_long_steps_are_told_in_plain_numbers() -> None:
    long = replace(COST, steps=(replace(COST.steps[1], seconds=123.4),))
    assert "takes 123 seconds" in cost_findings(long, nano(), 800)[-1].what


def test_a_process_that_fails_says_why() -> None:
    lines, why = run_module("saccade.no_such_module", {}, 10**15, lambda: None)
    assert lines == []
    assert "No module named saccade.no_such_module" in why


def test_a_process_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "START_SECONDS", 0.0)
    _, why = run_module("this", {}, 10**15, lambda: None)
    assert why.startswith("nothing was ready within 0 seconds")


@pytest.mark.slow
def test_steps_of_the_nano_detector_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "SECONDS", 60.0)
    monkeypatch.setattr(bounded, "MOST_SECONDS", 250.0)
    table = tables().of_training
    assert table is not None
    measured = measure_cost(table, nano(batch_size=2))
    assert not measured.failed
    assert len(measured.steps) == 2
    assert measured.unreached == ()
    assert measured.seconds is not None
    assert measured.seconds > 0
    assert measured.peak is not None
    assert 10**8 < measured.peak < 8 * GB
