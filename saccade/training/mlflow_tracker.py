"""MLflow."""

import os
import time
from collections.abc import Mapping
from typing import Any

from saccade.run_config import Tracker
from saccade.training.remote_tracker import PROJECT, Pixels, RemoteTracker

PARAMETERS_AT_ONCE = 100
"""MLflow takes no more in one call."""
LONGEST_PARAMETER = 500
"""Characters that every version of MLflow's servers keeps."""


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

            folder = self.folder.resolve()
            here = f"sqlite:///{folder / 'mlflow.db'}"
            client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", here))
            id = self._known_id()
            if id is None:
                run = client.create_run(self._experiment(client), run_name=folder.name)
                id = str(run.info.run_id)
            else:
                client.update_run(id, status="RUNNING")
            self._keep_id(id)
            self._client = client
        return self._client

    def _failures(self) -> tuple[type[Exception], ...]:
        from mlflow.exceptions import MlflowException

        return OSError, MlflowException

    def _send_numbers(self, values: dict[str, float], step: int | None) -> None:
        from mlflow.entities import Metric

        now, client = int(1000 * time.time()), self.client
        metrics = [Metric(name, value, now, step or 0) for name, value in values.items()]
        client.log_batch(self._id, metrics=metrics)

    def _send_settings(self, values: dict[str, Any]) -> None:
        """As parameters, shortened where one is long, and whole."""
        from mlflow.entities import Param

        client = self.client
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

    def _send_picture(self, name: str, pixels: Pixels, step: int) -> None:
        self.client.log_image(self._id, pixels, f"{name}/step-{step:07d}.png")

    def _send_end(self, best: Mapping[str, float]) -> None:
        self._send_numbers(dict(best), None)
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
