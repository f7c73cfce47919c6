"""What a person sees while a detector trains: a progress bar, TensorBoard and a CSV file."""

import time
from types import TracebackType

from lightning.fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import Tensor

from saccade.config import RunConfig
from saccade.training.checkpoint import Progress

SHOWN = {"class": "loss_ce", "L1": "loss_bbox", "GIoU": "loss_giou"}
LOG_EVERY_STEPS = 10
SHOW_EVERY_SECONDS = 0.5


class Display:
    """Shows and logs every step from the first process; the others stay silent."""

    def __init__(
        self, fabric: Fabric, config: RunConfig, steps_per_epoch: int, progress: Progress
    ) -> None:
        self.fabric = fabric
        self.config = config
        self.total = (
            config.epochs * steps_per_epoch if config.minutes is None else config.minutes * 60
        )
        self.images = 0
        self.shown_at = 0.0
        self.first_second = progress.seconds
        self.ap = ""
        self.console = Console()
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not fabric.is_global_zero,
            expand=True,
        )
        self.task = self.bar.add_task("epoch 1", total=self.total, figures="starting")

    def __enter__(self) -> "Display":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def step(
        self,
        progress: Progress,
        total: Tensor,
        losses: dict[str, Tensor],
        learning_rate: float,
        num_images: int,
    ) -> None:
        """Show one training step; log every tenth."""
        self.images += num_images * self.fabric.world_size
        if not self.fabric.is_global_zero:
            return
        rate = self.images / max(progress.seconds - self.first_second, 1e-9)
        if time.perf_counter() - self.shown_at > SHOW_EVERY_SECONDS:
            # Reading a loss waits for the device, so not after every step.
            self.shown_at = time.perf_counter()
            parts = "  ".join(f"{name} {losses[key].item():.3f}" for name, key in SHOWN.items())
            self.bar.update(
                self.task,
                completed=progress.step if self.config.minutes is None else progress.seconds,
                description=f"epoch {progress.epoch + 1}",
                figures=f"loss {total.item():.2f}  {parts}  {rate:.1f} images/s{self.ap}",
            )
        if progress.step % LOG_EVERY_STEPS == 0:
            values = {name: loss.item() for name, loss in losses.items()}
            values |= {"loss": total.item(), "learning_rate": learning_rate, "images_per_s": rate}
            self.fabric.log_dict(values, step=progress.step)

    def evaluated(self, progress: Progress, ap: float) -> None:
        """Show and log the AP of an evaluation."""
        self.ap = f"  AP {ap:.3f}"
        if self.fabric.is_global_zero:
            self.fabric.log("AP", ap, step=progress.step)
