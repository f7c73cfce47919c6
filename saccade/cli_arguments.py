"""What the subcommands of `saccade` can be asked; tyro makes options and help of these."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from saccade.recipes import RecipeName
from saccade.run_config import OnBrokenImage, RunConfig


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """Train a detector on a dataset in COCO's, YOLO's or Pascal VOC's format.

    The run folder then holds everything about it.

    Example: saccade train --data examples/blood-cells --preset deformable-detr-nano --minutes 5
    """

    preset: str | None = None
    """Which detector: see `saccade presets`. The two-stage Deformable DETR with ResNet-50 if
    neither this nor --config nor --weights says otherwise."""
    recipe: RecipeName | None = None
    """How it is trained, unless --config says it: "fast", the default, with what has been found
    since Deformable DETR, or "paper", exactly as was published."""
    config: Path | None = None
    """A run's YAML file instead of a preset, such as the config.yaml of a run folder."""
    out: Path | None = None
    """The run folder; by default runs/train, runs/train-2 and so on."""
    resume: bool = False
    """Go on with the run that --out holds, with the configuration it holds."""
    auto_resume: bool = False
    """Go on with the run that --out holds, if it holds one that has been saved, or else start it:
    for a command that a scheduler repeats. What torchrun restarts does so by itself."""
    check: bool = False
    """Do not train: say within a minute whether the detector learns one batch of the dataset by
    heart, and whether gradients reach all of it. Leaves no files; the exit status is 2 if not."""
    run: Annotated[RunConfig, tyro.conf.arg(name="")]
    """Everything else about the run; defaults are those of the preset or of the YAML file."""


@dataclass(frozen=True, kw_only=True)
class EvalArguments:
    """Print COCO's twelve numbers and the AP of every class.

    Example: saccade eval --weights runs/train/best --data examples/blood-cells
    """

    weights: str
    """A run's best/ or last/, an official .pth file, a transformers folder, or a hub id."""
    data: Path
    """The folder of a dataset in COCO's, YOLO's or Pascal VOC's format."""
    split: str = "val"
    preset: str | None = None
    """Settles what an official file does not tell; see `saccade presets`."""
    batch_size: int = 1
    """Images per batch; more than one pads images of different sizes, as the official code does."""
    num_workers: int = 0
    """Processes that read images."""
    max_detections: int = 100
    """Detections that the detector gives per image, and that count of an image and class, in AP and
    AR; COCO counts 100."""
    tta: bool = False
    """Test-time augmentation: look at every image at each of --tta-scales, as it is and flipped,
    and fuse what is found. Takes a forward pass for each."""
    tta_scales: tuple[float, ...] = (1.0,)
    """Of the sides to which images are resized otherwise; others than 1 help a detector that was
    trained at several sizes."""
    tta_flips: tuple[Literal["horizontal", "vertical"], ...] = ("horizontal",)
    """Directions in which the objects may as well be turned."""
    on_broken_image: OnBrokenImage = "fail"
    """Refuse images that are missing or broken, or "skip" them and evaluate on the others."""
    device: str = "auto"
    """cpu, cuda, mps, or auto for the best there is."""
    json: Path | None = None
    """Write the numbers to this file too."""
    report: Path | None = None
    """Write an HTML report to this file: curves, kinds of errors, confusion, worst images."""


@dataclass(frozen=True, kw_only=True)
class AnalyseArguments:
    """How sparse a detector's attention is, layer by layer, and what the detector costs.

    Negative entropy is in nats, sparsity divides it by the number of keys (TSP, section 3.2).
    Spread is how far the points of deformable cross-attention lie from the centre of the predicted
    box, in half sides; inside is the share of attention in the box.

    Example: saccade analyse --weights runs/train/best runs/train/last --data examples/blood-cells
    """

    weights: tuple[str, ...]
    """One or more, each a run's best/ or last/, an official .pth file, a transformers folder, or a
    hub id. From each to the next of the same configuration, it is told how much the matching of
    queries changes: that means something between checkpoints of one run."""
    data: Path
    """The folder of a dataset in COCO's, YOLO's or Pascal VOC's format."""
    split: str = "val"
    images: int = 16
    """How many images, spread evenly over the split."""
    preset: str | None = None
    """Settles what an official file does not tell; see `saccade presets`."""
    device: str = "auto"
    """cpu, cuda, mps, or auto for the best there is."""
    seconds: float = 5.0
    """How long to measure the speed of each detector."""
    json: Path | None = None
    """Write the numbers to this file too."""


@dataclass(frozen=True, kw_only=True)
class DoctorArguments:
    """Say what will hurt before training: look through a dataset, and at the recipe beside it.

    Reads every annotation and image once, takes a few training steps on noise, and takes the
    options of `saccade train`. The exit status is 1 if something is sure to hurt.

    Example: saccade doctor examples/blood-cells --preset deformable-detr-nano
    """

    folder: tyro.conf.Positional[Path]
    """Of a dataset in COCO's, YOLO's or Pascal VOC's format."""
    preset: str | None = None
    """For which detector and recipe: see `saccade presets`. The two-stage Deformable DETR with
    ResNet-50 if neither this nor --config nor --weights says otherwise."""
    config: Path | None = None
    """For the run that this YAML file describes, such as the config.yaml of a run folder."""
    recipe: RecipeName | None = None
    """How the detector will be trained: see `saccade train`."""
    out: Path | None = None
    """Where report.html goes; by default runs/doctor, runs/doctor-2 and so on."""
    measure: bool = True
    """Take training steps for half a minute or so: how long an epoch takes here, and whether it
    fits into memory."""
    processes: int | None = None
    """That read images; by default one per core, and for few images none but the command's."""
    run: Annotated[RunConfig, tyro.conf.arg(name="")]
    """Everything else about the run that is planned, as for `saccade train`."""


@dataclass(frozen=True, kw_only=True)
class PresetsArguments:
    """List the named detectors."""
