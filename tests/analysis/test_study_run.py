"""How a study is trained; its training itself is made up but for the last tests."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import HashStore

from saccade.analysis.study import runner
from saccade.analysis.study.arguments import StudyArguments
from saccade.analysis.study.lists import STUDIES
from saccade.analysis.study.results import evaluations, read_study
from saccade.analysis.study.runner import run_study
from saccade.analysis.study.settings import read_settings, run_config, settings_for
from saccade.analysis.study.turns import Turns, join
from saccade.cli import main
from saccade.data.shapes import write_shapes
from saccade.inference import Detector
from saccade.model import DetectorModel
from saccade.run_config import RunConfig
from saccade.settings import read_yaml, write_yaml
from saccade.split_evaluation import SplitEvaluation
from saccade.training.checkpoint import Checkpoint, Progress, save_checkpoint
from tests.conftest import small_config

NUMBERS = dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl"), 0.25)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, num_train=8, num_val=2, side=48)
    return folder


class Training:
    """Stands in for `saccade.run.train`: writes what it would, and remembers its calls."""

    def __init__(self) -> None:
        config = small_config("learned")
        self.detector = Detector(config, DetectorModel(config))
        self.calls: list[tuple[str, bool]] = []
        self.problem: Callable[[str], None] = lambda place: None

    def __call__(self, config: RunConfig, folder: Path, resume: bool) -> Detector:
        place = f"{folder.parent.name}/{folder.name}"
        self.calls.append((place, resume))
        folder.mkdir(parents=True, exist_ok=True)
        write_yaml(config, folder / "config.yaml")
        progress = Progress(config.epochs, config.epochs, 60.0)
        save_checkpoint(folder / "last.ckpt", Checkpoint(progress, {}, {}))
        self.problem(place)
        record = {"epoch": config.epochs, "step": config.epochs, "minutes": 1.0, **NUMBERS}
        (folder / "evaluations.jsonl").write_text(json.dumps(record) + "\n")
        return self.detector

    @property
    def places(self) -> list[str]:
        return [place for place, _ in self.calls]


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    training = Training()
    monkeypatch.setattr(runner, "train", training)
    # Pictures have their own tests.
    monkeypatch.setattr(runner, "write_report", lambda out: out / "report.html")
    return training


def alone() -> Turns:
    return Turns(HashStore(), 0, 1)


def study(data: Path, out: Path, *rows: str, **options: Any) -> StudyArguments:
    return StudyArguments(name="convergence", data=data, out=out, size="nano", rows=rows, **options)


def test_every_row_is_trained_with_every_seed_and_only_once(
    data: Path, tmp_path: Path, training: Training
) -> None:
    asked = study(data, tmp_path, "deformable", "detr", seeds=(0, 1))
    assert run_study(asked, alone()) == 0
    # In the order of the study, one seed after the other.
    expected = ["detr/seed-0", "deformable/seed-0", "detr/seed-1", "deformable/seed-1"]
    assert training.places == expected
    assert not (tmp_path / "detr" / "seed-0" / "last.ckpt").exists()
    assert run_study(asked, alone()) == 0
    assert run_study(study(data, tmp_path, "detr", seeds=(2,)), alone()) == 0
    assert training.places == [*expected, "detr/seed-2"]


def test_a_killed_study_goes_on_where_it_was(
    data: Path, tmp_path: Path, training: Training
) -> None:
    def kill(place: str) -> None:
        if place.startswith("deformable"):
            raise KeyboardInterrupt

    training.problem = kill
    asked = study(data, tmp_path, "detr", "deformable")
    with pytest.raises(KeyboardInterrupt):
        run_study(asked, alone())
    training.problem = lambda place: None
    assert run_study(asked, alone()) == 0
    killed, again = ("deformable/seed-0", False), ("deformable/seed-0", True)
    assert training.calls == [("detr/seed-0", False), killed, again]


def test_a_run_that_fails_is_told_and_the_others_go_on(
    data: Path, tmp_path: Path, training: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(place: str) -> None:
        if place.startswith("detr/"):
            raise ValueError("the loss is not finite")

    training.problem = fail
    asked = study(data, tmp_path, "detr", "deformable")
    assert run_study(asked, alone()) == 2
    failed = tmp_path / "detr" / "seed-0"
    assert "detr, seed 0 (1 of 2) failed: the loss is not finite" in capsys.readouterr().err
    assert (failed / "failed.txt").read_text() == "the loss is not finite\n"
    assert (tmp_path / "deformable" / "seed-0" / "done.json").exists()
    training.problem = lambda place: None
    assert run_study(asked, alone()) == 0
    assert not (failed / "failed.txt").exists()


@pytest.mark.parametrize("kind", [RuntimeError, torch.OutOfMemoryError])
def test_a_device_or_process_that_fails_ends_one_run_alone(
    kind: type[RuntimeError], data: Path, tmp_path: Path, training: Training
) -> None:
    def fail(place: str) -> None:
        if place.startswith("detr/"):
            raise kind("a DataLoader worker was killed\nby signal: Killed")

    training.problem = fail
    assert run_study(study(data, tmp_path, "detr", "deformable"), alone()) == 2
    failed = (tmp_path / "detr" / "seed-0" / "failed.txt").read_text()
    assert failed == f"{kind.__name__}: a DataLoader worker was killed\nby signal: Killed\n"
    assert (tmp_path / "deformable" / "seed-0" / "done.json").exists()
    (problem,) = [row.runs[0].problem for row in read_study(tmp_path).rows if row.row.key == "detr"]
    assert problem == f"{kind.__name__}: a DataLoader worker was killed by signal: Killed"


def test_a_run_whose_end_was_cut_off_is_finished_again(
    data: Path, tmp_path: Path, training: Training
) -> None:
    asked = study(data, tmp_path, "detr")
    run_study(asked, alone())
    file = tmp_path / "detr" / "seed-0" / "done.json"
    file.write_text(file.read_text()[:20])
    assert run_study(asked, alone()) == 0
    assert training.places == ["detr/seed-0"] * 2
    assert json.loads(file.read_text())["torch"] == torch.__version__


def test_images_are_read_by_as_many_processes_as_asked_for(
    data: Path, tmp_path: Path, training: Training
) -> None:
    run_study(study(data, tmp_path, "detr", num_workers=3), alone())
    # They change nothing about a run that is there.
    assert run_study(study(data, tmp_path, "detr", "deformable"), alone()) == 0
    numbers = [
        read_yaml(tmp_path / row / "seed-0" / "config.yaml").num_workers
        for row in ("detr", "deformable")
    ]
    assert numbers == [3, 1]


def test_a_dataset_may_be_moved_and_renamed_but_not_changed(
    data: Path, tmp_path: Path, training: Training
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(data, moved)
    out = tmp_path / "out"
    run_study(study(data, out, "detr"), alone())
    assert run_study(study(moved, out, "detr"), alone()) == 0
    assert training.places == ["detr/seed-0"]
    file = moved / "annotations" / "val.json"
    file.write_text(file.read_text().replace('"id": 1,', '"id":  1,'))
    with pytest.raises(ValueError, match=rf"data {data.name} \(8 .*\), now moved \("):
        run_study(study(moved, out, "detr"), alone())


def test_generated_images_are_remembered(
    tmp_path: Path, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "SHAPES", {"num_train": 2, "num_val": 1, "side": 32})
    asked = StudyArguments(name="convergence", smoke=True, out=tmp_path, rows=("detr",))
    assert run_study(asked, alone()) == 0
    assert read_settings(tmp_path).smoke
    named = replace(asked, data=tmp_path / "shapes")
    assert run_study(named, alone()) == 0
    assert not settings_for(named, tmp_path / "shapes").smoke
    assert training.places == ["detr/seed-0"]


def test_one_process_alone_writes_the_report(
    data: Path, tmp_path: Path, training: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    run_study(study(data, tmp_path, "detr"), alone())
    asked = StudyArguments(name="convergence", out=tmp_path, report_only=True)
    capsys.readouterr()
    assert run_study(asked, Turns(HashStore(), 1, 2)) == 0
    assert capsys.readouterr().out == ""
    assert run_study(asked, Turns(HashStore(), 0, 2)) == 0
    assert "The report is" in capsys.readouterr().out


def test_other_settings_are_refused(data: Path, tmp_path: Path, training: Training) -> None:
    run_study(study(data, tmp_path, "detr", epochs=3), alone())
    asked = study(data, tmp_path, "detr", epochs=4, learning_rates=("detr=1e-4",))
    expected = "epochs 3, now 4; learning_rates of the recipes, now detr=0.0001.: repeat them, or"
    with pytest.raises(ValueError, match=expected):
        run_study(asked, alone())
    assert training.places == ["detr/seed-0"]


def test_runs_that_would_be_trained_differently_today_are_refused(
    data: Path, tmp_path: Path, training: Training
) -> None:
    asked = study(data, tmp_path, "detr")
    run_study(asked, alone())
    file = tmp_path / "detr" / "seed-0" / "config.yaml"
    file.write_text(file.read_text().replace("weight_decay: 0.0001", "weight_decay: 0.1"))
    with pytest.raises(ValueError, match=r"differs from what .* would train now, in optimizer:"):
        run_study(asked, alone())


def test_processes_share_the_runs_and_the_longest_come_first(
    data: Path,
    tmp_path: Path,
    training: Training,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Threads, which stand in for processes, have one standard output together.
    monkeypatch.setattr(runner, "_into_log", lambda folder: nullcontext())
    store = HashStore()
    asked = study(data, tmp_path, "deformable", "detr", "detr-dc5", seeds=(0, 1))
    statuses = {}

    def work(rank: int) -> None:
        statuses[rank] = run_study(asked, Turns(store, rank, 2))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert statuses == {0: 0, 1: 0}
    assert len(training.places) == len(set(training.places)) == 6
    assert {place.split("/")[0] for place in training.places[:2]} <= {"detr", "detr-dc5"}
    assert capsys.readouterr().out.count("The report is") == 1


def test_torchrun_is_forgotten_after_the_processes_have_met(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or Lightning would take the processes for one training."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1" if "SIZE" in name else "0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    of_others = ("ROLE_ARN", "MASTER_KEY", "LOCAL_DATA", "GROUP_ID", "RANKING")
    for name in of_others:
        monkeypatch.setenv(name, "x")
    turns = join()
    assert (turns.rank, turns.world_size, turns.take(), turns.take()) == (0, 1, 0, 1)
    with monkeypatch.context() as context:
        for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
            with pytest.raises(KeyError):
                context.delenv(name)
    assert all(os.environ[name] == "x" for name in of_others)


def test_rows_train_alike_but_for_their_recipe(data: Path, tmp_path: Path) -> None:
    asked = study(data, tmp_path, epochs=5, learning_rates=("3e-4", "detr=1e-4"), short_side=96)
    settings = settings_for(asked, data)
    runs = {
        row.key: run_config(row, settings, 7, data) for row in STUDIES["convergence"].pick("nano")
    }
    assert len({(run.augmentation, run.schedule, run.seed) for run in runs.values()}) == 1
    assert runs["detr"].augmentation.short_sides == (96,)
    assert (runs["detr"].epochs, runs["deformable"].epochs) == (50, 5)
    rates = {key: run.optimizer.learning_rate for key, run in runs.items()}
    assert (rates["detr"], rates["detr-dc5"], rates["deformable"]) == (1e-4, 3e-4, 3e-4)


def test_large_rows_keep_the_images_of_their_step(data: Path, tmp_path: Path) -> None:
    asked = StudyArguments(
        name="convergence", data=data, size="r50", batch_size=4, short_side=400, minutes=3.0
    )
    settings = settings_for(asked, data)
    detr, *_, deformable = (
        run_config(row, settings, 0, data) for row in STUDIES["convergence"].pick("r50")
    )
    assert (detr.batch_size * detr.accumulate, deformable.batch_size * deformable.accumulate) == (
        16,
        32,
    )
    assert (detr.minutes, deformable.minutes) == (30, 3)
    assert detr.augmentation == deformable.augmentation
    assert detr.schedule == deformable.schedule
    assert max(detr.augmentation.short_sides) == detr.model.input.short_side == 400
    assert detr.augmentation.crop_sides == (192, 300)
    assert detr.optimizer.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no dataset: name its folder with --data, or try --smoke"),
        (["--report-only"], "--report-only needs the folder of the study"),
        (["--report-only", "--out", "nowhere"], "nowhere holds no study: it has no study.json"),
        (["--data", "nowhere"], 'nowhere has no split "train"'),
        (["--data", "DATA", "--rows", "detr-dc6"], 'has no row "detr-dc6" at the size'),
        (["--data", "DATA", "--learning-rates", "fast"], '--learning-rates has "fast": expected'),
        (["--data", "DATA", "--learning-rates", "x=1e-4"], 'has no row "x"'),
    ],
)
def test_unusable_input_is_one_sentence_and_status_2(
    options: list[str],
    message: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [str(data) if option == "DATA" else option for option in options]
    assert main(["study", "convergence", *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--epochs 0", "--epochs is 0: expected at least 1"),
        ("--minutes 0", "--minutes is 0.0: expected more than zero, and an end"),
        ("--minutes inf", "--minutes is inf: expected more than zero, and an end"),
        ("--minutes nan", "--minutes is nan: expected more than zero, and an end"),
        ("--report-only --rows fpn", "leave out --rows and --seeds"),
        ("--report-only --seeds 1", "leave out --rows and --seeds"),
        ("--epochs 3 --minutes 3", "exclude each other: give one of them"),
        ("--seeds 1 1", "--seeds is 1 1: expected different integers"),
        ("--short-side 8", "--short-side is 8: expected at least 32"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["study", "ablation", "--smoke", *options.split()])
    assert leaving.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_study_is_trained_and_reported_from_the_command_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["study", "attention", "--data", str(data), "--out", str(out), "--size", "nano"]
    options = "--rows deformable term-key --epochs 1 --short-side 48 --batch-size 4"
    assert main([*arguments, *options.split()]) == 0
    assert "2 detectors with 1 seed, 1 epoch on" in capsys.readouterr().out
    page = (out / "report.html").read_text("utf-8")
    assert "key alone" in page
    assert "unfinished" not in page
    assert len((out / "term-key" / "seed-0" / "evaluations.jsonl").read_text().splitlines()) == 1
    assert main(["study", "attention", "--report-only", "--out", str(out)]) == 0


def test_the_evaluation_that_a_kill_took_is_made_up_for(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = study(data, tmp_path, "deformable", epochs=1, short_side=48, batch_size=4)

    def kill(evaluation: SplitEvaluation) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(SplitEvaluation, "__call__", kill)
        with pytest.raises(KeyboardInterrupt):
            run_study(asked, alone())
    folder = tmp_path / "deformable" / "seed-0"
    assert evaluations(folder).read() == []
    assert run_study(asked, alone()) == 0
    (record,) = evaluations(folder).read()
    assert (record["epoch"], record["step"]) == (1, 2)
    assert (folder / "best" / "model.safetensors").exists()
    assert (folder / "done.json").exists()


@pytest.mark.slow
def test_torchrun_trains_two_runs_at_once(data: Path, tmp_path: Path) -> None:
    command = (
        "-m torch.distributed.run --standalone --nproc-per-node 2 -m saccade study convergence "
        f"--data {data} --out {tmp_path / 'out'} --size nano --rows deformable detr-dc5-plus "
        "--epochs 1 --short-side 48 --batch-size 4"
    )
    subprocess.run([sys.executable, *command.split()], check=True, timeout=300, cwd=tmp_path)
    for row in ("deformable", "detr-dc5-plus"):
        run = tmp_path / "out" / row / "seed-0"
        assert (run / "done.json").exists()
        # Both processes log, as every one of them is the first of its own training.
        assert (run / "csv").is_dir()
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.slow
def test_smoke_finishes(tmp_path: Path) -> None:
    assert main(["study", "convergence", "--smoke", "--out", str(tmp_path / "out")]) == 0
    assert "Not complete" not in (tmp_path / "out" / "report.md").read_text("utf-8")
