"""Frozen descriptions of a training run and of its devices."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from saccade.config import DetectorConfig
from saccade.config_checks import check_counts, is_finite
from saccade.recipe_config import (
    AugmentationConfig,
    LossConfig,
    OptimizerConfig,
    ScheduleConfig,
)

OnBrokenImage = Literal["fail", "skip"]
"""What to do about an image that cannot be read."""
Precision = Literal["32", "bf16", "fp16"]
"""The floating point numbers that a detector computes with while it trains."""
Tracker = Literal["wandb", "mlflow"]
"""A service that keeps the numbers and pictures of runs."""


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Which devices train, as Lightning Fabric understands it."""

    accelerator: str = "auto"
    """cpu, cuda, mps or auto."""
    devices: int = 1
    """Processes on this machine, one per device."""
    num_nodes: int = 1
    """Machines."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several processes train together: "ddp", which "auto" is too, copies the weights to each
    of them; "fsdp" divides weights, gradients and optimiser state among them (FSDP2), for models
    that are too large for one device."""
    precision: Precision = "32"
    """What is computed with: float32, or where that is safe (autocast) bfloat16 ("bf16") or float16
    ("fp16", for devices without bfloat16; the loss is then multiplied, and a step left out where
    that was too much). Losses, matching, boxes, reference points and sampling locations stay in
    float32, and so do the weights."""

    def __post_init__(self) -> None:
        check_counts(self, "launch.", "devices", "num_nodes")
        if self.precision not in get_args(Precision):
            raise ValueError(f'launch.precision is "{self.precision}": expected 32, bf16 or fp16.')
        if self.strategy not in ("auto", "ddp", "fsdp"):
            raise ValueError(f'launch.strategy is "{self.strategy}": expected auto, ddp or fsdp.')
        if self.strategy == "fsdp" and self.precision == "fp16":
            # Each process would decide by itself whether its part of the gradients is too large.
            raise ValueError(
                "launch.precision is fp16 and launch.strategy fsdp: weights that are divided train "
                "with bf16 or 32; choose one of these, or ddp."
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A complete training run: what a run folder's config.yaml holds."""

    model: DetectorConfig
    data: str = ""
    """Folder of a dataset in COCO's format (annotations/train.json with images/, COCO's own layout,
    or Roboflow's), in YOLO's (data.yaml) or in Pascal VOC's."""
    train_split: str = "train"
    """The part of the dataset that is trained on, by its name in the folder."""
    val_split: str = "val"
    """The part of the dataset that evaluations use, by its name in the folder."""
    on_broken_image: OnBrokenImage = "fail"
    """What to do about an image that is missing, broken, or not as large as its annotations say:
    "fail" refuses it, before the first step where its header or its end shows it; "skip" trains on
    another image in its place and evaluates without it."""
    num_workers: int = 2
    """Processes that read and transform images, beside each training process."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    epochs: int = 50
    """Passes over the training images; ignored when minutes are given."""
    minutes: float | None = None
    """Time to train, evaluations not counted; the schedule then follows the clock."""
    num_evaluations: int | None = None
    """How often the run is evaluated, at equal distances; by default after every epoch, or five
    times when minutes are given. A run of epochs is evaluated between them alone, so no more often
    than it has epochs."""
    batch_size: int = 2
    """Images per process and batch. The official runs use 32 images over 16 processes."""
    accumulate: int = 1
    """Batches whose gradients are added up before a step, so that it equals one of a batch of
    batch_size x devices x nodes x accumulate images, apart from the statistics of batch norms and
    from what is random. So many batches wait in memory outside of the device."""
    activation_checkpointing: bool = False
    """Keep only what enters the stages of the backbone and the layers of encoder and decoder for
    the backward pass, which then computes their insides once more. Activations then take half the
    memory or less, and a step the time of another forward pass longer. The numbers are the same."""
    compile: bool = False
    """Compile the stages of the backbone and the layers of encoder and decoder while they train, by
    torch.compile. It takes minutes in the first steps, which do not count as training, and steps
    are faster afterwards where the device waits for Python. Random numbers are others than without,
    and a run that is resumed need not end with the same bits."""
    aspect_bucketing: bool = False
    """Make batches of images whose aspect ratios are alike, which need less padding and so less
    time; the order stays shuffled, and every image comes as often as without. It does not help
    where all images have one aspect ratio, and little where crops change it."""
    ema: float = 0.0
    """Decay per step of an average of the weights, such as 0.999, that is evaluated and saved in
    place of the weights that train; shorter in the first steps, min(ema, (1 + step) / (10 + step)).
    0 for none. It costs one more copy of the weights in memory and in last.ckpt."""
    weights: str | None = None
    """Start from these weights instead of random ones: whatever `Detector.from_pretrained` reads;
    class heads are adapted by name."""
    freeze: tuple[str, ...] = ()
    """Parts of the detector that keep the weights they start with, batch statistics too: backbone
    neck positions selection encoder queries denoising decoder, or a module within one, such as
    encoder.layers.0."""
    pretrained_backbone: bool = True
    """Start from timm's ImageNet weights where the backbone has them."""
    teacher: str | None = None
    """Matching distillation (TSP, section 3.1): query i learns the object that query i of this
    trained detector is matched to, in all layers, instead of matching by itself. Weights as for
    `weights`, with the same kind and number of queries, on the same classes. A step then takes a
    forward pass of the teacher longer."""
    analyse: int = 8
    """Images of the validation split on which each evaluation also records how sparse attention is
    and how much the matching has changed since the evaluation before (TSP, sections 3.1 and 3.2);
    0 for none. Each costs up to twice as much as an image that is evaluated."""
    max_detections: int = 100
    """Detections of an image and class that evaluations count, in AP and AR: COCO's 100, or more
    where images hold more objects."""
    pictures: int = 4
    """Images of the validation split that every evaluation draws, the same ones each time, what was
    found beside what is marked; 0 for none."""
    report: bool = True
    """Write report.html at the end: curves, AP, errors, the worst images, and all settings."""
    trackers: tuple[Tracker, ...] = ()
    """Where numbers, pictures and settings go beside TensorBoard and CSV files: wandb, mlflow."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What becomes of a step whose loss or gradients are not finite: "stop" ends the run, "skip"
    leaves the step out, and ends the run after ten in a row. Both name the module and the images
    that it comes from."""
    checkpoint_minutes: float | None = 15.0
    """Time from one checkpoint to the next within an epoch. There is also one after every epoch,
    before every evaluation, and when SIGTERM or Ctrl-C stops the run; "none" for these alone."""
    seed: int = 42

    def __post_init__(self) -> None:
        check_counts(self, "", "epochs", "batch_size", "accumulate")
        check_counts(self, "", "num_workers", "analyse", "pictures", "seed", least=0)
        check_counts(self, "", "max_detections")
        unknown = [name for name in self.trackers if name not in get_args(Tracker)]
        if unknown:
            raise ValueError(
                f'trackers names "{unknown[0]}": expected some of {", ".join(get_args(Tracker))}; '
                "TensorBoard and CSV files are always written."
            )
        if not is_finite(self.ema) or not 0 <= self.ema < 1:
            raise ValueError(
                f"ema is {self.ema!r}: expected a decay per step below 1, such as 0.999, or 0 to "
                "average no weights."
            )
        if self.num_evaluations is not None:
            check_counts(self, "", "num_evaluations")
        if self.on_broken_image not in get_args(OnBrokenImage):
            raise ValueError(
                f'on_broken_image is "{self.on_broken_image}": expected fail, to refuse what is '
                "not readable, or skip, to go on without it."
            )
        if self.on_nonfinite not in ("stop", "skip"):
            raise ValueError(
                f'on_nonfinite is "{self.on_nonfinite}": expected stop, to end the run at a loss '
                "that is not finite, or skip, to leave the step out."
            )
        longest = self.checkpoint_minutes
        if longest is not None and not (is_finite(longest) and longest >= 0):
            raise ValueError(
                f"checkpoint_minutes is {longest!r}: expected zero or more, such as 15; none to "
                "leave a checkpoint only after every epoch."
            )
        if self.minutes is not None and not (is_finite(self.minutes) and self.minutes > 0):
            raise ValueError(
                f"minutes is {self.minutes!r}: expected more than zero; leave it out to train for "
                "epochs."
            )
