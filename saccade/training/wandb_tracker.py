"""Weights & Biases."""

import os
from collections.abc import Mapping
from typing import Any

from saccade.run_config import Tracker
from saccade.training.remote_tracker import PROJECT, Pixels, RemoteTracker


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

    def _failures(self) -> tuple[type[Exception], ...]:
        from wandb.errors import Error

        return OSError, Error

    def _send_numbers(self, values: dict[str, float], step: int | None) -> None:
        self.run.log(values, step=step)

    def _send_settings(self, values: dict[str, Any]) -> None:
        self.run.config.update(values, allow_val_change=True)

    def _send_picture(self, name: str, pixels: Pixels, step: int) -> None:
        import wandb

        self.run.log({name: wandb.Image(pixels)}, step=step)

    def _send_end(self, best: Mapping[str, float]) -> None:
        for name, value in best.items():
            self.run.summary[name] = value
        # Uploads what is left.
        self.run.finish()
