"""Where a run's numbers and pictures go: TensorBoard and CSV always, W&B and MLflow by name."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric
from lightning.fabric.loggers.csv_logs import CSVLogger
from lightning.fabric.loggers.logger import Logger
from lightning.fabric.loggers.tensorboard import TensorBoardLogger

from saccade.run_config import Tracker
from saccade.training.mlflow_tracker import MlflowTracker, flattened
from saccade.training.remote_tracker import Pixels, RemoteTracker
from saccade.training.wandb_tracker import WandbTracker

TRACKERS: dict[Tracker, Callable[[Path], RemoteTracker]] = {
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
}


def make_loggers(names: Sequence[Tracker], folder: Path) -> list[Logger]:
    """TensorBoard and CSV in a run folder, each session by itself, and the trackers named.

    Raises:
        ValueError: If a tracker's package is not installed.
    """
    # One more than the last, though earlier ones may have been removed.
    last = [each.name.removeprefix("session-") for each in folder.glob("*/session-*")]
    session = f"session-{1 + max((int(each) for each in last if each.isdecimal()), default=0)}"
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
