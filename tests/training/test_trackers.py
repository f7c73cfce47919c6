"""What W&B and MLflow are told; stand-ins take their places and keep the calls."""

import importlib.util
import json
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from saccade.cli import main
from saccade.run import train
from saccade.run_config import RunConfig, Tracker
from saccade.settings import write_yaml
from saccade.training.trackers import MlflowTracker, WandbTracker, make_loggers

PIXELS = np.zeros((4, 6, 3), np.uint8)


def module(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> ModuleType:
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    made.__dict__.update(contents)
    monkeypatch.setitem(sys.modules, name, made)
    return made


class WandbRun:
    """Keeps what W&B would be sent."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.config: Any = self
        self.settings: dict[str, Any] = {}
        self.logged: list[tuple[dict[str, Any], int]] = []
        self.summary: dict[str, float] = {}
        self.finished = False

    def update(self, values: dict[str, Any], allow_val_change: bool) -> None:
        assert allow_val_change
        self.settings |= values

    def log(self, values: dict[str, Any], step: int) -> None:
        assert not self.finished
        self.logged.append((values, step))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], WandbRun]]:
    """The sessions: how each was opened, and what it was told."""
    sessions: list[tuple[dict[str, Any], WandbRun]] = []

    def init(**options: Any) -> WandbRun:
        sessions.append((options, WandbRun(options["id"] or "abc")))
        return sessions[-1][1]

    module(monkeypatch, "wandb", init=init, Image=lambda pixels: ("image", pixels.shape))
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return sessions


class MlflowServer:
    """Keeps what MLflow would, as its client sees it."""

    def __init__(self) -> None:
        self.uri = ""
        self.experiments: dict[str, str | None] = {}
        self.status: dict[str, str] = {}
        self.params: dict[str, str] = {}
        self.metrics: list[tuple[str, float, int]] = []
        self.files: dict[str, Any] = {}

    def client(self, uri: str) -> "MlflowServer":
        self.uri = uri
        return self

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="7") if name in self.experiments else None

    def create_experiment(self, name: str, artifact_location: str | None = None) -> str:
        self.experiments[name] = artifact_location
        return "7"

    def create_run(self, experiment: str, run_name: str) -> Any:
        assert experiment == "7"
        self.status[f"id of {run_name}"] = "RUNNING"
        return SimpleNamespace(info=SimpleNamespace(run_id=f"id of {run_name}"))

    def get_run(self, id: str) -> Any:
        assert id in self.status
        return SimpleNamespace(data=SimpleNamespace(params=self.params))

    def update_run(self, id: str, status: str) -> None:
        assert id in self.status
        self.status[id] = status

    def log_batch(self, id: str, metrics: Any = (), params: Any = ()) -> None:
        assert len(params) <= 100
        assert not any(name in self.params for name, _ in params)
        assert all(len(value) <= 500 for _, value in params)
        self.params |= dict(params)
        self.metrics += metrics

    def log_dict(self, id: str, values: dict[str, Any], file: str) -> None:
        self.files[file] = values

    def log_image(self, id: str, pixels: Any, file: str) -> None:
        self.files[file] = pixels

    def set_terminated(self, id: str) -> None:
        self.status[id] = "FINISHED"


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> MlflowServer:
    server = MlflowServer()
    module(monkeypatch, "mlflow")
    module(monkeypatch, "mlflow.tracking", MlflowClient=server.client)
    entities = {
        "Metric": lambda name, value, _, step: (name, value, step),
        "Param": lambda name, value: (name, value),
    }
    module(monkeypatch, "mlflow.entities", **entities)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return server


def test_wandb_is_told_and_its_run_continued(
    wandb: list[tuple[dict[str, Any], WandbRun]], tmp_path: Path
) -> None:
    for _ in range(2):
        tracker = WandbTracker(tmp_path)
        assert tracker.version is None
        tracker.log_hyperparams({"seed": 1})
        tracker.log_metrics({"AP": 0.5}, 10)
        tracker.log_picture("a", PIXELS, 10)
        tracker.finish({"best_AP": 0.5})
    (first, run), (second, _) = wandb
    assert first["project"] == "saccade"
    assert first["name"] == tmp_path.name
    assert (first["id"], second["id"]) == (None, "abc")
    assert run.settings == {"seed": 1}
    assert run.logged == [({"AP": 0.5}, 10), ({"a": ("image", (4, 6, 3))}, 10)]
    assert run.summary == {"best_AP": 0.5}
    assert run.finished


def test_mlflow_is_told_and_its_run_continued(mlflow: MlflowServer, tmp_path: Path) -> None:
    many = {f"option{number}": "x" * 900 for number in range(150)}
    for seed in (1, 2):
        tracker = MlflowTracker(tmp_path)
        tracker.log_hyperparams({"run": {"seed": seed}, **many})
        tracker.log_metrics({"AP": 0.5}, 10)
        assert mlflow.status == {f"id of {tmp_path.name}": "RUNNING"}
        tracker.log_picture("a", PIXELS, 10)
        tracker.finish({"best_AP": 0.5})
        assert mlflow.status == {f"id of {tmp_path.name}": "FINISHED"}
    assert mlflow.uri == f"sqlite:///{tmp_path.resolve() / 'mlflow.db'}"
    assert mlflow.params["run.seed"] == "1"
    assert len(mlflow.params) == 151
    assert mlflow.files["config.json"]["run"] == {"seed": 2}
    assert mlflow.files["a/step-0000010.png"] is PIXELS
    assert mlflow.metrics == 2 * [("AP", 0.5, 10), ("best_AP", 0.5, 0)]
    assert json.loads((tmp_path / "trackers.json").read_text()) == {
        "mlflow": f"id of {tmp_path.name}"
    }


def test_an_mlflow_server_and_experiment_can_be_named(
    mlflow: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "cells")
    MlflowTracker(tmp_path).log_metrics({"AP": 0.5}, 10)
    assert mlflow.uri == "http://server"
    assert mlflow.experiments == {"cells": None}


def test_a_run_tells_its_trackers_everything(
    run: RunConfig,
    wandb: list[tuple[dict[str, Any], WandbRun]],
    mlflow: MlflowServer,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    train(replace(run, trackers=("wandb", "mlflow"), pictures=1, epochs=1), folder)
    (_, session), *others = wandb
    assert not others
    assert session.settings["epochs"] == 1
    assert session.settings["model"]["class_names"] == ["cat", "dog"]
    logged = {name: step for values, step in session.logged for name, step in values.items()}
    assert logged["1"] == ("image", mlflow.files["1/step-0000002.png"].shape)
    assert "AP50" in logged
    assert session.finished
    assert session.summary.keys() == {"best_AP", "best_AP50", "best_AP75"}
    assert mlflow.params["model.queries.num_queries"] == "12"
    assert {"AP", "best_AP"} <= {name for name, _, _ in mlflow.metrics}
    board = EventAccumulator(str(folder / "logs" / "session-1")).Reload()
    assert board.Tags()["images"] == ["1"]
    assert any("best_AP" in tag for tag in board.Tags()["scalars"])
    assert any("config.yaml" in tag for tag in board.Tags()["tensors"])
    with Image.open(folder / "pictures" / "1" / "step-0000002.jpg") as picture:
        assert picture.width == 2 * 640 + 8


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_told_before_anything_starts(
    name: Tracker,
    run: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda each: None if each == name else find(each)
    )
    write_yaml(run, tmp_path / "run.yaml")
    arguments = ["train", "--config", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "run")]
    assert main([*arguments, "--trackers", name]) == 2
    said = capsys.readouterr().err
    assert f'names {name}, which is not installed: pip install "saccade[{name}]"' in said
    assert not (tmp_path / "run").exists()


def test_trackers_are_off_unless_named(tmp_path: Path) -> None:
    kinds = [type(logger).__name__ for logger in make_loggers((), tmp_path)]
    assert kinds == ["TensorBoardLogger", "CSVLogger"]


def test_an_unknown_tracker_is_refused(run: RunConfig) -> None:
    with pytest.raises(ValueError, match='trackers names "comet": expected some of wandb, mlflow;'):
        replace(run, trackers=("comet",))


def test_what_cannot_be_told_is_lost_and_the_run_goes_on(
    mlflow: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class MlflowException(Exception):
        pass

    def fail(*_: Any, **__: Any) -> None:
        raise MlflowException("no server\nanswers")

    module(monkeypatch, "mlflow.exceptions", MlflowException=MlflowException)
    tracker = MlflowTracker(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(mlflow, "get_run", fail)
        with pytest.raises(ValueError, match=r"names mlflow, which .* \(no server answers\): see"):
            tracker.log_hyperparams({"seed": 1})
    with monkeypatch.context() as patch:
        patch.setattr(mlflow, "log_batch", fail)
        with pytest.warns(UserWarning, match=r"mlflow cannot be told .* \(no server answers\)"):
            tracker.log_metrics({"AP": 0.5}, 10)
        # Each attempt may take minutes.
        tracker.log_metrics({"AP": 0.5}, 20)
        assert mlflow.metrics == []
    tracker.log_picture("a", PIXELS, 20)
    assert mlflow.files == {}
    monkeypatch.setattr("saccade.training.remote_tracker.time.monotonic", lambda: 1e9)
    tracker.log_metrics({"AP": 0.5}, 30)
    assert mlflow.metrics == [("AP", 0.5, 30)]


def test_the_end_of_a_run_is_told_after_a_failure(
    wandb: list[tuple[dict[str, Any], WandbRun]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module(monkeypatch, "wandb.errors", Error=type("Error", (Exception,), {}))
    tracker = WandbTracker(tmp_path)

    def fail(*_: Any, **__: Any) -> None:
        raise BrokenPipeError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(WandbRun, "log", fail)
        with pytest.warns(UserWarning, match=r"wandb cannot be told of the run \(gone\), which g"):
            tracker.log_picture("a", PIXELS, 10)
    tracker.finish({"best_AP": 0.5})
    assert wandb[0][1].finished


def test_a_folder_of_its_name_is_not_a_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B leaves a folder "wandb" wherever it runs, which Python could import."""
    (tmp_path / "no_tracker").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(WandbTracker, "package", "no_tracker")
    with pytest.raises(ValueError, match="names wandb, which is not installed"):
        WandbTracker(tmp_path)


def test_sessions_are_numbered_on_though_earlier_ones_are_gone(tmp_path: Path) -> None:
    (tmp_path / "csv" / "session-2").mkdir(parents=True)
    (tmp_path / "logs" / "session-1.old").mkdir(parents=True)
    assert [each.version for each in make_loggers((), tmp_path)] == ["session-3", "session-3"]
