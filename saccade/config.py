"""Frozen descriptions of a detector; those of a run are in `saccade.run_config`.

A preset (`saccade.presets`) is a function that returns one complete `DetectorConfig`. What
follows from other values is a property, never a field, so that no two fields can disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from saccade.config_checks import check_counts, check_numbers, is_finite
from saccade.config_parts import (
    BackboneConfig,
    DecoderConfig,
    EncoderConfig,
    NeckConfig,
    PositionConfig,
    QueryConfig,
    SelectionConfig,
)


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


@dataclass(frozen=True, kw_only=True)
class DenoisingConfig:
    """Contrastive denoising queries while training (DINO, section 3.3); none when zero."""

    num_queries: int = 0
    """About how many noised queries an image gets, positive and negative ones together."""
    label_noise: float = 0.25
    """Share of the noised queries whose class is drawn anew among all."""
    box_noise: float = 1.0
    """Largest shift of a side, in half extents of the box."""

    def __post_init__(self) -> None:
        check_counts(self, "denoising.", "num_queries", least=0)
        check_numbers(self, "denoising.", "label_noise", most=1)
        check_numbers(self, "denoising.", "box_noise")


@dataclass(frozen=True, kw_only=True)
class OneToManyConfig:
    """Queries beside the detector's own while training, several of which learn each object
    (H-DETR's hybrid branch, section 3.2); none when zero."""

    num_queries: int = 0
    """How many; they cost as much as as many of the detector's own, while training."""
    repeats: int = 4
    """How many of them are to answer for each object."""

    def __post_init__(self) -> None:
        check_counts(self, "one_to_many.", "num_queries", least=0)
        check_counts(self, "one_to_many.", "repeats")


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
        check_counts(self, "input.", "short_side", "max_side")
        if len(self.mean) != 3 or not all(map(is_finite, self.mean)):
            raise ValueError(
                f"input.mean is {self.mean}: expected a finite number for each of red, green and "
                "blue, such as 0.485 0.456 0.406."
            )
        if len(self.std) != 3 or not all(is_finite(each) and each > 0 for each in self.std):
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
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    queries: QueryConfig = field(default_factory=QueryConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    denoising: DenoisingConfig = field(default_factory=DenoisingConfig)
    one_to_many: OneToManyConfig = field(default_factory=OneToManyConfig)
    input: InputConfig = field(default_factory=InputConfig)
    classification: Literal["sigmoid", "softmax"] = "sigmoid"
    """One sigmoid per class (focal loss), or a softmax with a "no object" class (DETR)."""

    def __post_init__(self) -> None:
        self._check_class_names()
        for name, part in (("encoder", self.encoder), ("decoder", self.decoder)):
            if self.width % part.num_heads:
                twice = "" if self.width == self.neck.width else "twice "
                raise ValueError(
                    f"{twice}neck.width {self.neck.width} is not a multiple of {name}.num_heads "
                    f"{part.num_heads}: choose heads that divide the width."
                )
        if self.queries.source == "two-stage" and not self.decoder.refined:
            raise ValueError(
                'queries.source is "two-stage" but decoder.refined is false: the two-stage '
                "detector refines its proposals; set decoder.refined."
            )
        if (self.queries.source == "tokens") != (self.decoder.num_layers == 0):
            raise ValueError(
                f'queries.source is "{self.queries.source}" and decoder.num_layers is '
                f"{self.decoder.num_layers}: expected no layers exactly where the encoder's tokens "
                'predict; set decoder.num_layers to 0 or queries.source to another than "tokens".'
            )
        if self.selection.kind != "none":
            self._check_selection()
        single = self.encoder.attention not in ("deformable", "dense")
        if single and self.num_levels > 1:
            raise ValueError(
                f'encoder.attention is "{self.encoder.attention}", which attends within one level, '
                f"but there are {self.num_levels}: set backbone.levels to one stage and "
                "neck.num_extra_levels to 0."
            )
        needs_references = self.decoder.num_layers > 0 and (
            self.decoder.attention == "deformable" or self.decoder.refined
        )
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

        if self.one_to_many.num_queries and self.queries.source == "tokens":
            raise ValueError(
                f"one_to_many.num_queries is {self.one_to_many.num_queries}, but there is no "
                "decoder that could take more queries: set it to 0."
            )

    def _check_selection(self) -> None:
        kind = f'selection.kind is "{self.selection.kind}"'
        if self.queries.source != "tokens":
            raise ValueError(
                f'{kind}, but queries.source is "{self.queries.source}": the selected tokens '
                'predict themselves; set queries.source to "tokens" and decoder.num_layers to 0.'
            )
        if self.encoder.attention != "dense":
            raise ValueError(
                f'{kind}, but encoder.attention is "{self.encoder.attention}", which needs whole '
                'maps: set encoder.attention to "dense".'
            )
        levels = self.backbone.levels
        steps = levels != tuple(range(levels[0], levels[0] + len(levels)))
        if self.num_levels == 1 or self.backbone.dilated or steps:
            raise ValueError(
                f"{kind}, but backbone.levels is {levels} with {self.neck.num_extra_levels} extra "
                "ones" + (", the last dilated" if self.backbone.dilated else "") + ": expected "
                "several levels, each of twice the stride of the one before, such as 3 4 5."
            )
        if self.neck.width % 32:
            raise ValueError(
                f"{kind}, but neck.width is {self.neck.width}: expected a multiple of 32, the "
                "number of groups in the towers."
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
    def width(self) -> int:
        """C, the channels of every token and query; selected tokens join two features."""
        return self.neck.width if self.selection.kind == "none" else 2 * self.neck.width

    @property
    def num_levels(self) -> int:
        """L, the backbone's levels and the extra ones."""
        return len(self.backbone.levels) + self.neck.num_extra_levels
