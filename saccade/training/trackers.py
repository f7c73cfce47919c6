"""Where a run's numbers and pictures go: TensorBoard and CSV always, W&B and MLflow by name."""

import importlib.util
import json
import os
import time
from abc import abstractmethod
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from lightning.fabric import Fabric
from lightning.fabric.loggers.csv_logs import CSVLogger
from lightning.fabric.loggers.logger import Logger
from lightning.fabric.loggers.tensorboard import TensorBoardLogger

from saccade.run_config import Tracker

Pixels = npt.NDArray[np.uint8]
"""[H, W, 3], RGB."""
Values = TypeVar("Values")

PROJECT = "saccade"
"""Of W&B and experiment of MLflow, unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME names another."""
PARAMETERS_AT_ONCE = 100
"""MLflow takes no more in one call."""
LONGEST_PARAMETER = 500
"""Characters that every version of MLflow's servers keeps."""


class RemoteTracker(Logger):  # type: ignore[misc]
    """A tracker that continues its run when ours is resumed; it starts at the first use.

    Only the first process uses it. Where the run is found again is kept in ``trackers.json``.
    """

    tracker: Tracker
    package: str
    """What is imported."""

    def __init__(self, folder: Path) -> None:
        """Nothing starts yet.

        Args:
            folder: The run folder.

        Raises:
            ValueError: If the tracker's package is not installed.
        """
        if importlib.util.find_spec(self.package) is None:
            raise ValueError(
                f"trackers names {self.tracker}, which is not installed: pip install "
                f'"saccade[{self.tracker}]".'
            )
        self.folder = folder
        self._id: str | None = None

    @property
    def name(self) -> str:
        """Which tracker."""
        return self.tracker

    @property
    def version(self) -> str | None:
        """The tracker's id of the run, None before the first use."""
        return self._id

    @abstractmethod
    def log_picture(self, name: str, pixels: Pixels, step: int) -> None:
        """Show a picture of the moment."""

    @abstractmethod
    def finish(self, best: Mapping[str, float]) -> None:
        """Note the best numbers of the whole run, and that it is complete."""

    def _known_id(self) -> str | None:
        file = self.folder / "trackers.json"
        known = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        return known.get(self.tracker)

    def _keep_id(self, id: str) -> None:
        file = self.folder / "trackers.json"
        known = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(known | {self.tracker: id}, indent=1) + "\n", "utf-8")
        os.replace(partial, file)
        self._id = id


class WandbTracker(RemoteTracker):
    """Weights & Biases; without a network set WANDB_MODE=offline."""

    tracker: Tracker = "wandb"
    package = "wandb"
    _run: Any = None

    @property
    def run(self) -> Any:
        """W&B's run."""
        if self._run is None:
            import wandb

            id = self._known_id()
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=self.folder.resolve().name,
                dir=self.folder,
                id=id,
                resume="allow",
            )
            self._keep_id(self._run.id)
        return self._run

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Send numbers; W&B leaves out what a resumed run repeats."""
        self.run.log(_plain(metrics), step=step)

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *_arguments: Any, **_options: Any
    ) -> None:
        """Send the configuration."""
        self.run.config.update(params, allow_val_change=True)

    def log_picture(self, name: str, pixels: Pixels, step: int) -> None:
        """Show a picture of the moment."""
        import wandb

        self.run.log({name: wandb.Image(pixels)}, step=step)

    def finish(self, best: Mapping[str, float]) -> None:
        """Note the best numbers in the run's summary, and upload what is left."""
        for name, value in best.items():
            self.run.summary[name] = value
        self.run.finish()


class MlflowTracker(RemoteTracker):
    """MLflow, at MLFLOW_TRACKING_URI; without one in files of its own below the run folder."""

    tracker: Tracker = "mlflow"
    package = "mlflow"
    _client: Any = None

    @property
    def client(self) -> Any:
        """MLflow's client; the run is there."""
        if self._client is None:
            from mlflow.tracking import MlflowClient

            here = f"sqlite:///{(self.folder / 'mlflow.db').resolve()}"
            client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", here))
            id = self._known_id()
            if id is None:
                run = client.create_run(self._experiment(client), run_name=self.folder.name)
                id = str(run.info.run_id)
            else:
                client.update_run(id, status="RUNNING")
            self._keep_id(id)
            self._client = client
        return self._client

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Send numbers."""
        from mlflow.entities import Metric

        now, client = int(1000 * time.time()), self.client
        values = [Metric(name, value, now, step or 0) for name, value in _plain(metrics).items()]
        client.log_batch(self._id, metrics=values)

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *_arguments: Any, **_options: Any
    ) -> None:
        """Send the configuration: as parameters, shortened where one is long, and whole."""
        from mlflow.entities import Param

        client, values = self.client, vars(params) if isinstance(params, Namespace) else params
        known = client.get_run(self._id).data.params
        flat = [
            Param(name, str(value)[:LONGEST_PARAMETER])
            for name, value in flattened(values).items()
            # A resumed run may have more epochs, but MLflow's parameters never change.
            if name not in known
        ]
        for start in range(0, len(flat), PARAMETERS_AT_ONCE):
            client.log_batch(self._id, params=flat[start : start + PARAMETERS_AT_ONCE])
        client.log_dict(self._id, values, "config.json")

    def log_picture(self, name: str, pixels: Pixels, step: int) -> None:
        """Keep a picture of the moment among the run's files."""
        self.client.log_image(self._id, pixels, f"{name}/step-{step:07d}.png")

    def finish(self, best: Mapping[str, float]) -> None:
        """Note the best numbers, and that the run is complete."""
        self.log_metrics(dict(best))
        self.client.set_terminated(self._id)

    def _experiment(self, client: Any) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = client.get_experiment_by_name(name)
        if known is not None:
            return str(known.experiment_id)
        if "MLFLOW_TRACKING_URI" in os.environ:
            return str(client.create_experiment(name))
        files = (self.folder / "mlflow").resolve().as_uri()
        return str(client.create_experiment(name, artifact_location=files))


TRACKERS: dict[Tracker, Callable[[Path], RemoteTracker]] = {
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
}


def make_loggers(names: Sequence[Tracker], folder: Path) -> list[Logger]:
    """TensorBoard and CSV in a run folder, each session by itself, and the trackers named.

    Raises:
        ValueError: If a tracker's package is not installed.
    """
    session = f"session-{len(list(folder.glob('logs/session-*'))) + 1}"
    return [
        TensorBoardLogger(folder, name="logs", version=session),
        CSVLogger(folder, name="csv", version=session, flush_logs_every_n_steps=1),
        *(TRACKERS[name](folder) for name in dict.fromkeys(names)),
    ]


def log_config(fabric: Fabric, config: dict[str, Any], text: str) -> None:
    """Tell every tracker the complete configuration; TensorBoard shows its `text` too."""
    for logger in fabric.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(
                "config.yaml", "\n".join(map("    {}".format, text.splitlines()))
            )
        elif isinstance(logger, RemoteTracker):
            logger.log_hyperparams(config)


def log_pictures(fabric: Fabric, pictures: Mapping[str, Pixels], step: int) -> None:
    """Tell TensorBoard and the trackers pictures by name."""
    for name, pixels in pictures.items():
        for logger in fabric.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(name, pixels, step, dataformats="HWC")
            elif isinstance(logger, RemoteTracker):
                logger.log_picture(name, pixels, step)


def finish(fabric: Fabric, config: dict[str, Any], best: Mapping[str, float]) -> None:
    """Tell every tracker the best numbers of the run and that it is complete."""
    for logger in fabric.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(flattened(config), dict(best))
            logger.finalize("success")
        elif isinstance(logger, RemoteTracker):
            logger.finish(best)


def flattened(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested values by their path.

    >>> flattened({"model": {"width": 64}, "seed": 1})
    {'model.width': 64, 'seed': 1}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{above}{name}"
        flat |= flattened(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return flat


def _plain(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
