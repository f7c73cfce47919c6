"""What a person sees while a detector trains: a bar on a terminal, lines in a log; and loggers."""

import time
from datetime import timedelta
from math import ceil
from types import TracebackType

from lightning.fabric import Fabric
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text
from torch import Tensor

from saccade.run_config import RunConfig
from saccade.training.checkpoint import Progress
from saccade.training.records import EvaluationRecords
from saccade.training.waiting import Waiting

SHOWN = {"class": "loss_ce", "L1": "loss_bbox", "GIoU": "loss_giou"}
LOG_EVERY_STEPS = 10
SHOW_EVERY_SECONDS = 0.5
PRINT_EVERY_SECONDS = 60.0
"""Where no terminal can draw a bar."""
FIRST_PRINT_SECONDS = 10.0


class Display:
    """Shows and logs every step from the first process; the others stay silent."""

    def __init__(
        self,
        fabric: Fabric,
        config: RunConfig,
        batches_per_epoch: int,
        progress: Progress,
        records: EvaluationRecords,
    ) -> None:
        """Show nothing yet.

        Args:
            fabric: Its loggers are told.
            config: The run.
            batches_per_epoch: Of each process.
            progress: How far the run is.
            records: What evaluations before this session found.
        """
        self.fabric = fabric
        self.config = config
        self.batches_per_epoch = batches_per_epoch
        self.waiting = Waiting(config.num_workers)
        self.images = 0
        self.shown_at = time.perf_counter()
        self.printed_at = self.shown_at - PRINT_EVERY_SECONDS + FIRST_PRINT_SECONDS
        self.logged = progress.step
        self.first_second = progress.seconds
        self.first_share = self._share(progress, progress.batch)
        self.started_evaluation = 0.0
        self.seconds_of_evaluations: list[float] = []
        self.precisions = [record["AP"] for record in records.read()]
        self.console = Console(highlight=False, quiet=not fabric.is_global_zero)
        self.bar = Bar(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:.0f} %  {task.fields[rate]}"),
            expand=True,
        )
        self.task = self.bar.add_task("", total=1.0, epoch=self._epoch(progress), rate="starting")
        self.line = Text("")
        self.live = Live(
            Group(self.bar, self.line), console=self.console, transient=True, auto_refresh=False
        )

    def __enter__(self) -> "Display":
        # Started in other processes it would swallow what they print.
        if self._draws and self.fabric.is_global_zero:
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
            self.waiting.count(0.0)
            return
        self.waiting.count(seconds - self.waiting.trained)
        self.images += num_images * self.fabric.world_size
        rate = self.images / seconds
        if time.perf_counter() - self.shown_at > SHOW_EVERY_SECONDS:
            # Reading a loss waits for the device, so not after every step.
            self.shown_at = time.perf_counter()
            self._show(progress, index, total, losses, learning_rate, rate)
            if (advice := self.waiting.warning()) is not None:
                self.warn(advice)
        if progress.step % LOG_EVERY_STEPS == 0 and progress.step != self.logged:
            self.logged = progress.step
            values = {name: loss.item() for name, loss in losses.items()}
            values |= {"loss": total.item(), "learning_rate": learning_rate, "images_per_s": rate}
            values["data_wait"] = self.waiting.share
            if self.config.on_nonfinite == "skip":
                values["skipped"] = progress.skipped
            self.fabric.log_dict(values, step=progress.step)

    def warn(self, message: str) -> None:
        """Print a line that stays, from the first process."""
        self.console.print(f"warning: {message}", style="yellow", markup=False, soft_wrap=True)

    def evaluating(self) -> None:
        """Show that an evaluation runs."""
        self.started_evaluation = time.perf_counter()
        self.line.plain = "evaluating"
        self.live.refresh()

    def evaluated(self, progress: Progress, numbers: dict[str, float]) -> None:
        """Print and log what an evaluation found."""
        self.seconds_of_evaluations.append(time.perf_counter() - self.started_evaluation)
        minutes, seconds = divmod(round(progress.seconds), 60)
        moment = (
            f"after {minutes}:{seconds:02d} min"
            if self.config.minutes
            else f"epoch {progress.epoch} of {self.config.epochs}"
        )
        figures = "  ".join(f"{name} {_percent(numbers[name])}" for name in ("AP", "AP50", "AP75"))
        best = "  (the best so far)" if numbers["AP"] > max(self.precisions, default=-1.0) else ""
        self.precisions.append(numbers["AP"])
        self.console.print(f"{moment}, step {progress.step}:  {figures}{best}")
        if self.fabric.is_global_zero:
            self.fabric.log_dict(numbers, step=progress.step)

    def _show(
        self,
        progress: Progress,
        index: int,
        total: Tensor,
        losses: dict[str, Tensor],
        learning_rate: float,
        rate: float,
    ) -> None:
        parts = ", ".join(f"{name} {losses[key].item():.3f}" for name, key in SHOWN.items())
        of_step = f"loss {total.item():.2f} ({parts})  lr {learning_rate:.1e}"
        of_run = f"{100 * self.waiting.share:.0f} % waiting for data"
        if self.precisions:
            last, best = self.precisions[-1], max(self.precisions)
            of_run = f"AP {_percent(last)}, best {_percent(best)}  {of_run}"
        share = self._share(progress, index)
        speed = f"{rate:.1f} images/s  {self._left(progress, share)}"
        epoch = self._epoch(progress)
        if self._draws:
            self.line.plain = f"{of_step}\n{of_run}"
            self.bar.update(self.task, completed=share, epoch=epoch, rate=speed)
            self.live.refresh()
        elif time.perf_counter() - self.printed_at > PRINT_EVERY_SECONDS:
            self.printed_at = time.perf_counter()
            where = f"epoch {epoch}, step {progress.step}, {100 * share:.0f} %"
            self.console.print(f"{where}:  {of_step}  {of_run}  {speed}", soft_wrap=True)

    @property
    def _draws(self) -> bool:
        return self.console.is_terminal and not self.console.is_dumb_terminal

    def _epoch(self, progress: Progress) -> str:
        return f"{progress.epoch + 1}" + ("" if self.config.minutes else f"/{self.config.epochs}")

    def _share(self, progress: Progress, index: int) -> float:
        if self.config.minutes:
            return min(1.0, progress.seconds / (60 * self.config.minutes))
        return (progress.epoch + index / self.batches_per_epoch) / self.config.epochs

    def _left(self, progress: Progress, share: float) -> str:
        """Until the end, the evaluations that are to come included as far as one is known."""
        passed = share - self.first_share
        if passed <= 0:
            return "-"
        seconds = (progress.seconds - self.first_second) * (1 - share) / passed
        if self.seconds_of_evaluations:
            mean = sum(self.seconds_of_evaluations) / len(self.seconds_of_evaluations)
            by_default = 5 if self.config.minutes else self.config.epochs
            count = self.config.num_evaluations or by_default
            count = count if self.config.minutes else min(count, self.config.epochs)
            seconds += mean * ceil(count * (1 - share))
        return f"{timedelta(seconds=round(seconds))} left"


def _percent(value: float) -> str:
    """COCO's -1, where there is nothing to find, is no percentage."""
    return "-" if value < 0 else f"{100 * value:.1f}"
