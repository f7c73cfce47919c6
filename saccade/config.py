"""Frozen descriptions of a detector and of a run.

A preset (`saccade.presets`) is a function that returns one complete `DetectorConfig`. What
follows from other values is a property, never a field, so that no two fields can disagree.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal

AttentionKind = Literal["deformable", "dense"]


def as_class_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names as the tuple that a `DetectorConfig` holds.

    Raises:
        ValueError: If it is a single string, which Python would take apart into letters.
    """
    if isinstance(names, str):
        raise ValueError(
            f"class_names is the string {names!r}: expected a sequence of names; for a single "
            f"class write [{names!r}]."
        )
    return tuple(names)


def _check_counts(config: object, owner: str, *names: str, least: Literal[0, 1] = 1) -> None:
    """Raises ValueError unless these fields are whole numbers of at least `least`."""
    for name in names:
        value = getattr(config, name)
        if not _is_count(value, least):
            wanted = "more than zero" if least else "zero or more"
            default = getattr(type(config), name)
            raise ValueError(
                f"{owner}{name} is {value!r}: expected {wanted}, a whole number"
                + (f" such as {default}, the default." if default is not None else ".")
            )


def _check_numbers(config: object, owner: str, *names: str, most: float = math.inf) -> None:
    """Raises ValueError unless these fields are finite numbers from 0 to `most`."""
    for name in names:
        value = getattr(config, name)
        if not _is_finite(value) or not 0 <= value <= most:
            wanted = "a finite number of at least 0" if most == math.inf else f"0 to {most:g}"
            default = getattr(type(config), name)
            raise ValueError(
                f"{owner}{name} is {value!r}: expected {wanted}, such as {default}, the default."
            )


def _is_count(value: Any, least: int) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= least


def _is_finite(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """The convolutional network that turns the image into feature maps."""

    name: str = "resnet50"
    """A timm model with `features_only`, or the library's own "small-resnet"."""
    levels: tuple[int, ...] = (3, 4, 5)
    """Which maps are used: C_l has stride 2**l."""
    dilated: bool = False
    """DC5: C5 keeps the stride of C4, and its convolutions are dilated instead."""
    norm: Literal["frozen", "trained"] = "frozen"
    """Whether batch normalisation keeps the statistics and weights it came with."""
    num_frozen_stages: int = 2
    """Stages that are not trained, the stem counting as the first."""

    def __post_init__(self) -> None:
        counted = all(_is_count(level, 1) for level in self.levels)
        if not self.levels or not counted or tuple(sorted(set(self.levels))) != self.levels:
            raise ValueError(
                f"backbone.levels is {self.levels}: expected stages in rising order, such as 3 4 5."
            )
        _check_counts(self, "backbone.", "num_frozen_stages", least=0)
        if self.dilated and self.levels[-1] != 5:
            raise ValueError(
                f"backbone.dilated is true, but the last of backbone.levels is {self.levels[-1]}: "
                "expected 5, the stage that is dilated; add level 5 or unset backbone.dilated."
            )
        if self.name != "small-resnet":
            return
        if self.dilated:
            raise ValueError(
                'backbone.dilated is true, but backbone.name is "small-resnet", which has no '
                "dilated stage: unset backbone.dilated or choose a timm backbone."
            )
        if self.num_frozen_stages:
            raise ValueError(
                f"backbone.num_frozen_stages is {self.num_frozen_stages}, but backbone.name is "
                '"small-resnet", which starts from random weights: set num_frozen_stages to 0.'
            )


@dataclass(frozen=True, kw_only=True)
class NeckConfig:
    """How feature maps become levels of one width."""

    width: int = 256
    """C, the channels of every token and query."""
    num_extra_levels: int = 1
    """Levels beyond the backbone's, each a strided 3x3 convolution."""
    norm: Literal["group", "none"] = "group"

    def __post_init__(self) -> None:
        _check_counts(self, "neck.", "width")
        _check_counts(self, "neck.", "num_extra_levels", least=0)
        if self.norm == "group" and self.width % 32:
            raise ValueError(
                f"neck.width is {self.width}: expected a multiple of 32, the number of groups."
            )
        if self.width % 4:
            raise ValueError(
                f"neck.width is {self.width}: expected a multiple of 4, a sine and a cosine for x "
                "and for y."
            )


@dataclass(frozen=True, kw_only=True)
class PositionConfig:
    """The sine position of a token (Deformable DETR, appendix A.4; DETR, appendix A.4)."""

    centred: bool = True
    """Count from the centre of the first pixel (Deformable DETR), not from its far edge (DETR)."""
    level_embedding: bool = True
    """Add a learned vector that tells the level."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Self-attention over the tokens of all levels."""

    num_layers: int = 6
    attention: AttentionKind = "deformable"
    num_heads: int = 8
    num_points: int = 4
    """P, the points a head samples in each level; only deformable attention uses it."""
    ffn_width: int = 1024
    dropout: float = 0.1

    def __post_init__(self) -> None:
        _check_counts(self, "encoder.", "num_layers", "num_heads", "num_points", "ffn_width")
        _check_numbers(self, "encoder.", "dropout", most=1)


@dataclass(frozen=True, kw_only=True)
class QueryConfig:
    """Where the decoder's queries come from."""

    num_queries: int = 300
    source: Literal["learned", "two-stage"] = "learned"
    """Learned vectors, or the best-scored tokens of the encoder (Deformable DETR, section 4.2)."""
    content: Literal["learned", "proposal", "zeros"] = "learned"
    """What a query holds before the first layer: a learned vector, one made from its proposal
    (two-stage only), or zeros (DETR)."""
    references: bool = True
    """Whether queries carry reference points; DETR's do not."""

    def __post_init__(self) -> None:
        _check_counts(self, "queries.", "num_queries")
        if self.source == "learned" and self.content == "proposal":
            raise ValueError(
                'queries.content is "proposal" but queries.source is "learned", which has no '
                'proposals: set queries.source to "two-stage" or queries.content to "learned".'
            )
        if self.source == "two-stage" and self.content == "zeros":
            raise ValueError(
                'queries.content is "zeros" but queries.source is "two-stage", whose queries hold '
                'a learned vector or their proposal: set queries.content to "learned" or '
                '"proposal".'
            )


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Self-attention among queries and cross-attention into the encoder's memory."""

    num_layers: int = 6
    attention: AttentionKind = "deformable"
    num_heads: int = 8
    num_points: int = 4
    ffn_width: int = 1024
    dropout: float = 0.1
    refined: bool = False
    """Iterative refinement: each layer corrects the previous layer's box with heads of its own
    (Deformable DETR, section 4.2)."""
    final_norm: bool = False
    """Normalise each layer's queries before the heads (DETR)."""

    def __post_init__(self) -> None:
        _check_counts(self, "decoder.", "num_layers", "num_heads", "num_points", "ffn_width")
        _check_numbers(self, "decoder.", "dropout", most=1)


@dataclass(frozen=True, kw_only=True)
class DenoisingConfig:
    """Contrastive denoising queries while training (DINO, section 3.3); none when zero."""

    num_queries: int = 0
    """About how many noised queries an image gets, positive and negative ones together."""
    label_noise: float = 0.25
    """Share of the noised queries that start from a wrong class."""
    box_noise: float = 1.0
    """Largest shift of a side, in half extents of the box."""

    def __post_init__(self) -> None:
        _check_counts(self, "denoising.", "num_queries", least=0)
        _check_numbers(self, "denoising.", "label_noise", most=1)
        _check_numbers(self, "denoising.", "box_noise")


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """How an image is resized and normalised before the backbone; saved with the weights."""

    short_side: int = 800
    """The shorter side of the resized image, in pixels."""
    max_side: int = 1333
    """The longer side never exceeds this, in pixels; the shorter side gives way."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from RGB in [0, 1]."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Divides RGB in [0, 1] after the subtraction."""

    def __post_init__(self) -> None:
        _check_counts(self, "input.", "short_side", "max_side")
        if len(self.mean) != 3 or not all(map(_is_finite, self.mean)):
            raise ValueError(
                f"input.mean is {self.mean}: expected a finite number for each of red, green and "
                "blue, such as 0.485 0.456 0.406."
            )
        if len(self.std) != 3 or not all(_is_finite(each) and each > 0 for each in self.std):
            raise ValueError(
                f"input.std is {self.std}: expected a number above 0 for each of red, green and "
                "blue, such as 0.229 0.224 0.225; 1 1 1 leaves the scale alone."
            )


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """A complete detector. `saccade.Detector` builds exactly this."""

    class_names: tuple[str, ...]
    """In the order of the labels; a training run takes those of its dataset."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    neck: NeckConfig = field(default_factory=NeckConfig)
    positions: PositionConfig = field(default_factory=PositionConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    queries: QueryConfig = field(default_factory=QueryConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    denoising: DenoisingConfig = field(default_factory=DenoisingConfig)
    input: InputConfig = field(default_factory=InputConfig)
    classification: Literal["sigmoid", "softmax"] = "sigmoid"
    """One sigmoid per class (focal loss), or a softmax with a "no object" class (DETR)."""

    def __post_init__(self) -> None:
        self._check_class_names()
        for name, part in (("encoder", self.encoder), ("decoder", self.decoder)):
            if self.neck.width % part.num_heads:
                raise ValueError(
                    f"neck.width {self.neck.width} is not a multiple of {name}.num_heads "
                    f"{part.num_heads}: choose heads that divide the width."
                )
        if self.queries.source == "two-stage" and not self.decoder.refined:
            raise ValueError(
                'queries.source is "two-stage" but decoder.refined is false: the two-stage '
                "detector refines its proposals; set decoder.refined."
            )
        needs_references = self.decoder.attention == "deformable" or self.decoder.refined
        if needs_references and not self.queries.references:
            raise ValueError(
                "queries.references is false, but deformable attention and refinement start from "
                "reference points: set queries.references."
            )
        if self.denoising.num_queries and self.queries.source != "two-stage":
            raise ValueError(
                f"denoising.num_queries is {self.denoising.num_queries}, but queries are learned: "
                'denoising starts from boxes; set queries.source to "two-stage".'
            )

    def _check_class_names(self) -> None:
        names = as_class_names(self.class_names)
        if not names:
            raise ValueError("class_names is empty: expected at least one class.")
        for index, name in enumerate(names):
            if not isinstance(name, str) or not name.strip():
                raise ValueError(
                    f"class_names[{index}] is {name!r}: expected a name; give the class one."
                )
            if name in names[:index]:
                raise ValueError(
                    f'class_names[{index}] is "{name}" again: expected every name once; rename or '
                    "merge the classes."
                )

    @property
    def num_classes(self) -> int:
        """K, without the "no object" class."""
        return len(self.class_names)

    @property
    def num_levels(self) -> int:
        """L, the backbone's levels and the extra ones."""
        return len(self.backbone.levels) + self.neck.num_extra_levels


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
        _check_numbers(self, owner, "horizontal_flip", "vertical_flip", "crop", most=1)
        _check_numbers(self, owner, "zoom")
        _check_numbers(self, owner, "brightness", most=1)
        _check_counts(self, owner, "max_side")
        for name in ("short_sides", "crop_short_sides"):
            sides = getattr(self, name)
            if not sides or not all(_is_count(side, 1) for side in sides):
                raise ValueError(
                    f"augmentation.{name} is {sides}: expected one or more sides in pixels, such "
                    "as 400 500 600."
                )
        sides = self.crop_sides
        counted = len(sides) == 2 and all(_is_count(side, 1) for side in sides)
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

    def __post_init__(self) -> None:
        weights = ("class_weight", "box_weight", "giou_weight", "no_object_weight")
        costs = ("class_cost", "box_cost", "giou_cost")
        _check_numbers(self, "loss.", *weights, *costs, "focal_gamma")
        _check_numbers(self, "loss.", "focal_alpha", most=1)


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
        _check_numbers(self, "optimizer.", *rates, "weight_decay", "clip_norm")


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
        _check_numbers(self, "schedule.", "drop_factor", "final_factor")


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
        _check_counts(self, "launch.", "devices", "num_nodes")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A complete training run: what a run folder's config.yaml holds."""

    model: DetectorConfig
    data: str = ""
    """Folder of a COCO-style dataset: annotations/train.json with images/, COCO's own layout, or
    Roboflow's."""
    train_split: str = "train"
    """The part of the dataset that is trained on, by its name in the folder."""
    val_split: str = "val"
    """The part of the dataset that evaluations use, by its name in the folder."""
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
    seed: int = 42

    def __post_init__(self) -> None:
        _check_counts(self, "", "epochs", "batch_size", "accumulate")
        _check_counts(self, "", "num_workers", "seed", least=0)
        if self.num_evaluations is not None:
            _check_counts(self, "", "num_evaluations")
        if self.minutes is not None and not (_is_finite(self.minutes) and self.minutes > 0):
            raise ValueError(
                f"minutes is {self.minutes!r}: expected more than zero; leave it out to train for "
                "epochs."
            )
