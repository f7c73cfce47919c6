"""A service that continues its run when ours is resumed, and never ends it."""

import importlib.util
import json
import os
import time
import warnings
from abc import abstractmethod
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lightning.fabric.loggers.logger import Logger

from saccade.run_config import Tracker

Pixels = npt.NDArray[np.uint8]
"""[H, W, 3], RGB."""

PROJECT = "saccade"
"""Of W&B and experiment of MLflow, unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME names another."""
PAUSE_SECONDS = 300.0
"""Until a tracker that failed is told something again: each attempt may take minutes."""


class RemoteTracker(Logger):  # type: ignore[misc]
    """A tracker that continues its run when ours is resumed; it starts at the first use.

    Only the first process uses it. Where the run is found again is kept in ``trackers.json``.
    `log_hyperparams` comes first and raises what goes wrong; whatever cannot be told later is lost,
    with a warning, and training goes on.
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
        spec = importlib.util.find_spec(self.package)
        # Python takes any folder of this name for a package, such as the one W&B leaves files in.
        a_folder = spec is not None and spec.origin is None and spec.submodule_search_locations
        if spec is None or a_folder:
            raise ValueError(
                f"trackers names {self.tracker}, which is not installed: pip install "
                f'"saccade[{self.tracker}]".'
            )
        self.folder = folder
        self._id: str | None = None
        self._silent_until = 0.0

    @property
    def name(self) -> str:
        """Which tracker."""
        return self.tracker

    @property
    def version(self) -> str | None:
        """The tracker's id of the run, None before the first use."""
        return self._id

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Send numbers; W&B leaves out what a resumed run repeats."""
        values = {name: float(value) for name, value in metrics.items()}
        self._tell(lambda: self._send_numbers(values, step))

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *_arguments: Any, **_options: Any
    ) -> None:
        """Send the configuration.

        Raises:
            ValueError: If the tracker cannot be reached.
        """
        values = vars(params) if isinstance(params, Namespace) else params
        try:
            self._send_settings(values)
        except self._failures() as error:
            raise ValueError(
                f"trackers names {self.tracker}, which cannot be told the run's settings "
                f"({_in_a_line(error)}): see that it answers, or leave it out."
            ) from error

    def log_picture(self, name: str, pixels: Pixels, step: int) -> None:
        """Show a picture of the moment."""
        self._tell(lambda: self._send_picture(name, pixels, step))

    def finish(self, best: Mapping[str, float]) -> None:
        """Note the best numbers of the whole run, and that it is complete."""
        self._silent_until = 0.0
        self._tell(lambda: self._send_end(best))

    @abstractmethod
    def _failures(self) -> tuple[type[Exception], ...]:
        """What it raises where a network or a server fails."""

    @abstractmethod
    def _send_numbers(self, values: dict[str, float], step: int | None) -> None: ...

    @abstractmethod
    def _send_settings(self, values: dict[str, Any]) -> None: ...

    @abstractmethod
    def _send_picture(self, name: str, pixels: Pixels, step: int) -> None: ...

    @abstractmethod
    def _send_end(self, best: Mapping[str, float]) -> None: ...

    def _tell(self, send: Callable[[], None]) -> None:
        if time.monotonic() < self._silent_until:
            return
        try:
            send()
        except self._failures() as error:
            self._silent_until = time.monotonic() + PAUSE_SECONDS
            warnings.warn(
                f"{self.tracker} cannot be told of the run ({_in_a_line(error)}), which goes on; "
                f"what happens in the next {PAUSE_SECONDS / 60:.0f} minutes is not told to it.",
                stacklevel=3,
            )

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


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())
