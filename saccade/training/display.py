"""What a person sees while a detector trains: a progress bar, TensorBoard and a CSV file."""

import sys
import time
from types import TracebackType

from lightning.fabric import Fabric
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text
from torch import Tensor

from saccade.run_config import RunConfig
from saccade.training.checkpoint import Progress

SHOWN = {"class": "loss_ce", "L1": "loss_bbox", "GIoU": "loss_giou"}
LOG_EVERY_STEPS = 10
SHOW_EVERY_SECONDS = 0.5


class Display:
    """Shows and logs every step from the first process; the others stay silent."""

    def __init__(
        self, fabric: Fabric, config: RunConfig, batches_per_epoch: int, progress: Progress
    ) -> None:
        self.fabric = fabric
        self.config = config
        self.batches_per_epoch = batches_per_epoch
        self.images = 0
        self.shown_at = 0.0
        self.logged = 0
        self.first_second = progress.seconds
        self.console = Console(highlight=False, quiet=not fabric.is_global_zero)
        self.bar = Bar(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            expand=True,
        )
        total = config.minutes * 60 if config.minutes else config.epochs * batches_per_epoch
        self.task = self.bar.add_task("", total=total, epoch=progress.epoch + 1, rate="starting")
        self.losses = Text("")
        # Live draws on terminals only; elsewhere a line per evaluation is all that is printed.
        self.live = Live(
            Group(self.bar, self.losses), console=self.console, transient=True, auto_refresh=False
        )

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.live.stop()

    def step(
        self,
        progress: Progress,
        index: int,
        total: Tensor,
        losses: dict[str, Tensor],
        learning_rate: float,
        num_images: int,
    ) -> None:
        """Show batch number `index` of the epoch; log every tenth step."""
        seconds = progress.seconds - self.first_second
        if not self.fabric.is_global_zero or not seconds:
            # No time is counted for the first batch, which compiles: there is no rate yet.
            return
        self.images += num_images * self.fabric.world_size
        rate = self.images / seconds
        if time.perf_counter() - self.shown_at > SHOW_EVERY_SECONDS:
            # Reading a loss waits for the device, so not after every step.
            self.shown_at = time.perf_counter()
            parts = ", ".join(f"{name} {losses[key].item():.3f}" for name, key in SHOWN.items())
            self.losses.plain = f"loss {total.item():.2f} ({parts} in the last layer)"
            self.bar.update(
                self.task,
                completed=progress.seconds
                if self.config.minutes
                else progress.epoch * self.batches_per_epoch + index,
                epoch=progress.epoch + 1,
                rate=f"{rate:.1f} images/s",
            )
            self.live.refresh()
        if progress.step % LOG_EVERY_STEPS == 0 and progress.step != self.logged:
            self.logged = progress.step
            values = {name: loss.item() for name, loss in losses.items()}
            values |= {"loss": total.item(), "learning_rate": learning_rate, "images_per_s": rate}
            if self.config.on_nonfinite == "skip":
                values["skipped"] = progress.skipped
            self.fabric.log_dict(values, step=progress.step)

    def warn(self, message: str) -> None:
        """Print a line that stays, from the first process."""
        self.console.print(f"warning: {message}", style="yellow", markup=False, soft_wrap=True)

    def warn_here(self, message: str) -> None:
        """Print a line that stays, from this process, which alone may know of it."""
        if self.fabric.is_global_zero:
            self.warn(message)
        else:
            print(f"warning: {message}", file=sys.stderr)

    def evaluating(self) -> None:
        """Show that an evaluation runs."""
        self.losses.plain = "evaluating"
        self.live.refresh()

    def evaluated(self, progress: Progress, numbers: dict[str, float]) -> None:
        """Print and log what an evaluation found."""
        minutes, seconds = divmod(round(progress.seconds), 60)
        moment = (
            f"after {minutes}:{seconds:02d} min"
            if self.config.minutes
            else f"epoch {progress.epoch} of {self.config.epochs}"
        )
        figures = "  ".join(f"{name} {100 * numbers[name]:.1f}" for name in ("AP", "AP50", "AP75"))
        self.console.print(f"{moment}, step {progress.step}:  {figures}")
        if self.fabric.is_global_zero:
            self.fabric.log_dict(numbers, step=progress.step)
