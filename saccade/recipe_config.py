"""Frozen descriptions of how a run trains: augmentation, losses, optimiser, schedule."""

from dataclasses import dataclass
from typing import Literal

from saccade.config_checks import check_choices, check_counts, check_numbers, is_count


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
    mosaic: float = 0.0
    """Probability that the image gives way to four, itself and three others, in one frame."""
    copy_paste: float = 0.0
    """Probability that objects of another image are pasted over it, as rectangles."""
    zoom: float = 0.0
    """Enlarge or shrink inside the resized frame, by up to exp of this; a shrunk image gets a
    border in the mean colour. Batches then need no padding, unlike with many short_sides. 0.7,
    half to twice the size, is a large jitter."""
    brightness: float = 0.0
    """Largest relative change of brightness."""

    def __post_init__(self) -> None:
        owner = "augmentation."
        check_numbers(self, owner, "horizontal_flip", "vertical_flip", "crop", most=1)
        check_numbers(self, owner, "mosaic", "copy_paste", most=1)
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
    quality: Literal["none", "varifocal", "matchability"] = "none"
    """What a sigmoid detector's class score is to be for a matched query: 1, or how well its box
    overlaps the object's, by the varifocal loss (VarifocalNet, equation 2) or the
    matchability-aware loss (DEIM, section 3.3)."""
    one_to_many_weight: float = 1.0
    """Weight of the losses of queries that learn objects several times (H-DETR)."""
    proposal_weight: float = 1.0
    """Weight of the losses of what selects the tokens of a sparse detector (TSP)."""

    def __post_init__(self) -> None:
        weights = ("class_weight", "box_weight", "giou_weight", "no_object_weight")
        costs = ("class_cost", "box_cost", "giou_cost")
        check_numbers(self, "loss.", *weights, *costs, "focal_gamma", "proposal_weight")
        check_numbers(self, "loss.", "one_to_many_weight")
        check_choices(self, "loss.", "quality")
        check_numbers(self, "loss.", "focal_alpha", most=1)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW as Deformable DETR uses it (appendix A.4)."""

    learning_rate: float = 2e-4
    backbone_factor: float = 0.1
    """Multiplies the learning rate of the backbone."""
    sampling_factor: float = 0.1
    """Multiplies the learning rate of the projections to sampling offsets and reference points."""
    layer_decay: float = 1.0
    """Multiplies the learning rate once more for each layer below the heads: decoder layers,
    queries, encoder layers, neck, stages of the backbone. 1 for none; beside it, a backbone_factor
    of 1 is usual."""
    weight_decay: float = 1e-4
    decay_vectors: bool = True
    """Whether parameters of one dimension, the norms and biases, decay too."""
    clip_norm: float = 0.1
    """Largest norm of all gradients together; longer ones are scaled down to it. 0 switches
    clipping off."""

    def __post_init__(self) -> None:
        rates = ("learning_rate", "backbone_factor", "sampling_factor")
        check_numbers(self, "optimizer.", *rates, "weight_decay", "clip_norm")
        check_numbers(self, "optimizer.", "layer_decay", most=1)
        if not self.layer_decay:
            raise ValueError(
                "optimizer.layer_decay is 0, with which only the heads would learn: expected above "
                "0 and at most 1, such as 0.8; freeze parts by name to leave them as they are."
            )


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate changes; every point in time is a fraction of the run."""

    kind: Literal["step", "cosine", "flat-cosine"] = "step"
    """One drop, half a cosine from the warm-up to the end, or the full rate until `flat_until` and
    half a cosine from there."""
    drop_at: float = 0.8
    """When "step" drops: epoch 40 of 50, as in Deformable DETR."""
    drop_factor: float = 0.1
    """What remains after "step" has dropped."""
    warmup: float = 0.0
    """How long the learning rate rises in a straight line from zero."""
    final_factor: float = 0.0
    """Where "cosine" and "flat-cosine" end."""
    flat_until: float = 0.5
    """How long "flat-cosine" keeps the full rate."""

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
        least = self.warmup if self.kind == "flat-cosine" else 0
        if not least <= self.flat_until <= 1:
            raise ValueError(
                f"schedule.flat_until is {self.flat_until}: expected a fraction of the run, from "
                f"the end of the warm-up, {least:g}, to 1."
            )
        check_numbers(self, "schedule.", "drop_factor", "final_factor")
