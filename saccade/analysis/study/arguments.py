"""What `saccade study` can be asked."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class StudyArguments:
    """Train the detectors of one of the literature's tables on your data, and compare them.

    Repeat the command to go on after an interruption, with more --rows or --seeds to add some. On
    several GPUs, or cores, start it with torchrun --nproc-per-node N -m saccade study ...: every
    process then takes the next run that nobody has taken.

    Example: saccade study convergence --data FOLDER --epochs 50 --seeds 0 1 2
    """

    name: tyro.conf.Positional[
        Literal["convergence", "ablation", "backbones", "attention", "decoder"]
    ]
    """Which comparison: AP against epochs; the parts of Deformable DETR; backbones; what the
    encoder attends by; with and without a decoder."""
    data: Path | None = None
    """The folder of a dataset in COCO's, YOLO's or Pascal VOC's format."""
    out: Path | None = None
    """The study's folder; by default runs/study/NAME-DATA."""
    size: Literal["nano", "r50"] | None = None
    """Three million parameters from random weights, or the published detectors with ResNet-50; by
    default r50 where there is a GPU."""
    rows: tuple[str, ...] = ()
    """Some detectors only, by the names of their folders; by default all."""
    seeds: tuple[int, ...] = (0,)
    """Each detector is trained once with each."""
    epochs: int | None = None
    """Of a run; 50 if --minutes are not given either. DETR's long rows of "convergence" train ten
    times as long."""
    minutes: float | None = None
    """Training time of a run instead, evaluations not counted; ten times as much for the same."""
    short_side: int | None = None
    """Scales images to this shorter side, in pixels; by default 240 for nano and 800 for r50."""
    batch_size: int | None = None
    """Images per batch; by default 8 for nano, and 2 for r50, which adds batches up to the images
    of the published step."""
    learning_rates: tuple[str, ...] = ()
    """Of some rows as ROW=RATE, or one RATE for all; by default those of the rows' recipes."""
    num_evaluations: int | None = None
    """How often a run is evaluated, at equal distances; by default 25 times."""
    num_workers: int | None = None
    """Processes that read images, per run; by default none for nano, 2 for r50."""
    num_threads: int | None = None
    """CPU threads of a run; by default as many as torch takes."""
    smoke: bool = False
    """As small as it gets, to see that everything works: some minutes on two cores, on generated
    images unless --data is given; its APs mean nothing."""
    report_only: bool = False
    """Train nothing, write the report of what --out holds."""

    def __post_init__(self) -> None:
        for name, least in (
            ("epochs", 1),
            ("short_side", 32),
            ("batch_size", 1),
            ("num_evaluations", 1),
            ("num_workers", 0),
            ("num_threads", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} is {value}: expected at least {least}.")
        if self.minutes is not None and not (math.isfinite(self.minutes) and self.minutes > 0):
            raise ValueError(f"--minutes is {self.minutes}: expected more than zero, and an end.")
        if self.epochs is not None and self.minutes is not None:
            raise ValueError("--epochs and --minutes exclude each other: give one of them.")
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            given = " ".join(map(str, self.seeds)) or "empty"
            raise ValueError(f"--seeds is {given}: expected different integers from 0 on.")
        if self.report_only and (self.rows or self.seeds != (0,)):
            raise ValueError(
                "--report-only writes the report of all that the folder holds: leave out --rows "
                "and --seeds."
            )
