"""Frozen descriptions of a training run: data, augmentation, losses, optimiser, devices."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from saccade.config import DetectorConfig
from saccade.config_checks import check_counts, check_numbers, is_count, is_finite

OnBrokenImage = Literal["fail", "skip"]
"""What to do about an image that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """What training does to an image (Deformable DETR keeps DETR's, appendix A.4 there)."""

    horizontal_flip: float = 0.5
    """Probability."""
    vertical_flip: float = 0.0
    """Probability."""
    short_sides: tuple[int, ...] = tuple(range(480, 801, 32))
    """One is drawn for the shorter side, in pixels."""
    max_side: int = 1333
    """The longer side never exceeds this, in pixels."""
    crop: float = 0.5
    """Probability of the second path: resize, random crop, resize."""
    crop_short_sides: tuple[int, ...] = (400, 500, 600)
    """One is drawn for the shorter side before the crop, in pixels."""
    crop_sides: tuple[int, int] = (384, 600)
    """Least and largest side of the crop, in pixels."""
    zoom: float = 0.0
    """Enlarge or shrink inside the resized frame, by up to exp of this; a shrunk image gets a
    border in the mean colour. Batches then need no padding, unlike with many short_sides."""
    brightness: float = 0.0
    """Largest relative change of brightness."""

    def __post_init__(self) -> None:
        owner = "augmentation."
        check_numbers(self, owner, "horizontal_flip", "vertical_flip", "crop", most=1)
        check_numbers(self, owner, "zoom")
        check_numbers(self, owner, "brightness", most=1)
        check_counts(self, owner, "max_side")
        for name in ("short_sides", "crop_short_sides"):
            sides = getattr(self, name)
            if not sides or not all(is_count(side, 1) for side in sides):
                raise ValueError(
                    f"augmentation.{name} is {sides}: expected one or more sides in pixels, such "
                    "as 400 500 600."
                )
        sides = self.crop_sides
        counted = len(sides) == 2 and all(is_count(side, 1) for side in sides)
        if not counted or sides[0] > sides[1]:
            raise ValueError(
                f"augmentation.crop_sides is {sides}: expected the least and the largest side in "
                "pixels, in this order, such as 384 600."
            )


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the set loss and of its matching cost (Deformable DETR, appendix A.4)."""

    class_weight: float = 2.0
    box_weight: float = 5.0
    giou_weight: float = 2.0
    class_cost: float = 2.0
    box_cost: float = 5.0
    giou_cost: float = 2.0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    no_object_weight: float = 0.1
    """Weight of the "no object" class in a softmax detector (DETR's eos_coef)."""
    proposal_weight: float = 1.0
    """Weight of the losses of what selects the tokens of a sparse detector (TSP)."""

    def __post_init__(self) -> None:
        weights = ("class_weight", "box_weight", "giou_weight", "no_object_weight")
        costs = ("class_cost", "box_cost", "giou_cost")
        check_numbers(self, "loss.", *weights, *costs, "focal_gamma", "proposal_weight")
        check_numbers(self, "loss.", "focal_alpha", most=1)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW as Deformable DETR uses it (appendix A.4)."""

    learning_rate: float = 2e-4
    backbone_factor: float = 0.1
    """Multiplies the learning rate of the backbone."""
    sampling_factor: float = 0.1
    """Multiplies the learning rate of the projections to sampling offsets and reference points."""
    weight_decay: float = 1e-4
    decay_vectors: bool = True
    """Whether parameters of one dimension, the norms and biases, decay too."""
    clip_norm: float = 0.1
    """Largest norm of all gradients together; longer ones are scaled down to it. 0 switches
    clipping off."""

    def __post_init__(self) -> None:
        rates = ("learning_rate", "backbone_factor", "sampling_factor")
        check_numbers(self, "optimizer.", *rates, "weight_decay", "clip_norm")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate changes; every point in time is a fraction of the run."""

    kind: Literal["step", "cosine"] = "step"
    drop_at: float = 0.8
    """When "step" drops: epoch 40 of 50, as in Deformable DETR."""
    drop_factor: float = 0.1
    """What remains after "step" has dropped."""
    warmup: float = 0.0
    """How long the learning rate rises in a straight line from zero."""
    final_factor: float = 0.0
    """Where "cosine" ends."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(
                f"schedule.warmup is {self.warmup}: expected a fraction of the run, at least 0 and "
                "less than 1; divide warm-up steps by the steps of the run."
            )
        if not 0 <= self.drop_at <= 1:
            raise ValueError(
                f"schedule.drop_at is {self.drop_at}: expected a fraction of the run, 0 to 1; "
                "divide the epoch of the drop by the epochs of the run."
            )
        check_numbers(self, "schedule.", "drop_factor", "final_factor")


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Which devices train, as Lightning Fabric understands it."""

    accelerator: str = "auto"
    """cpu, cuda, mps or auto."""
    devices: int = 1
    """Processes on this machine, one per device."""
    num_nodes: int = 1
    """Machines."""
    bf16: bool = False
    """Compute in bfloat16 where that is safe (autocast); losses and locations stay in float32."""

    def __post_init__(self) -> None:
        check_counts(self, "launch.", "devices", "num_nodes")


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
    times when minutes are given."""
    batch_size: int = 2
    """Images per process and batch. The official runs use 32 images over 16 processes."""
    accumulate: int = 1
    """Batches whose gradients are added up before a step: the effective batch is batch_size x
    devices x nodes x accumulate."""
    weights: str | None = None
    """Start from these weights instead of random ones: whatever `Detector.from_pretrained` reads;
    class heads are adapted by name."""
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
        check_counts(self, "", "num_workers", "analyse", "seed", least=0)
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
