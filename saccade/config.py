"""Frozen descriptions of a detector; those of a run are in `saccade.run_config`.

A preset (`saccade.presets`) is a function that returns one complete `DetectorConfig`. What
follows from other values is a property, never a field, so that no two fields can disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from saccade.config_checks import check_counts, check_numbers, is_count, is_finite

AttentionKind = Literal["deformable", "dense"]
EncoderAttentionKind = Literal[
    "deformable", "dense", "synthesizer-dense", "synthesizer-random", "four-term"
]
Term = Literal["query-key", "query-position", "key", "position"]
TERMS: tuple[Term, ...] = ("query-key", "query-position", "key", "position")


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
    deformable_levels: tuple[int, ...] = ()
    """Stages C_l whose 3x3 convolutions sample where learned offsets say (Deformable
    Convolutional Networks, section 2.1)."""
    modulated: bool = True
    """Deformable convolutions also weigh each sample (Deformable ConvNets v2, section 3.2)."""

    def __post_init__(self) -> None:
        counted = all(is_count(level, 1) for level in self.levels)
        if not self.levels or not counted or tuple(sorted(set(self.levels))) != self.levels:
            raise ValueError(
                f"backbone.levels is {self.levels}: expected stages in rising order, such as 3 4 5."
            )
        check_counts(self, "backbone.", "num_frozen_stages", least=0)
        if not set(self.deformable_levels) <= {2, 3, 4, 5}:
            raise ValueError(
                f"backbone.deformable_levels is {self.deformable_levels}: expected stages among "
                "2 3 4 5, such as 3 4 5."
            )
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
    """Channels of every level; see `DetectorConfig.width` for those of a token."""
    num_extra_levels: int = 1
    """Levels beyond the backbone's, each a strided 3x3 convolution."""
    norm: Literal["group", "none"] = "group"
    kind: Literal["projection", "fpn", "bifpn"] = "projection"
    """What exchanges between levels before the encoder: nothing (Deformable DETR), a feature
    pyramid, or bidirectional pyramids (EfficientDet)."""
    num_rounds: int = 3
    """How often a "bifpn" goes down and up."""

    def __post_init__(self) -> None:
        check_counts(self, "neck.", "width", "num_rounds")
        check_counts(self, "neck.", "num_extra_levels", least=0)
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
class SelectionConfig:
    """Which tokens enter the encoder: all, or few that are likely objects (TSP, section 4)."""

    kind: Literal["none", "fcos", "rcnn"] = "none"
    """All tokens, features of interest (TSP-FCOS), or region proposals (TSP-RCNN)."""
    num_tokens: int = 700
    """How many tokens enter the encoder at most."""
    keep: tuple[float, float] = (0.7, 1.0)
    """While training, a share of the tokens drawn between these stays, the rest is dropped."""
    num_convolutions: int = 4
    """Of each of the two towers that look for objects in the levels."""
    region_size: int = 7
    """Samples along each side of a proposal; only "rcnn" uses it."""

    def __post_init__(self) -> None:
        check_counts(self, "selection.", "num_tokens", "num_convolutions", "region_size")
        counted = len(self.keep) == 2 and all(map(is_finite, self.keep))
        if not counted or not 0 < self.keep[0] <= self.keep[1] <= 1:
            raise ValueError(
                f"selection.keep is {self.keep}: expected the least and the largest share of "
                "tokens to keep, above 0 and at most 1, in this order, such as 0.7 1.0."
            )


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Self-attention over the tokens of all levels."""

    num_layers: int = 6
    attention: EncoderAttentionKind = "deformable"
    num_heads: int = 8
    num_points: int = 4
    """P, the points a head samples in each level; only deformable attention uses it."""
    ffn_width: int = 1024
    dropout: float = 0.1
    across_levels: bool = True
    """Whether deformable attention samples all levels, or each token its own alone (Deformable
    DETR, table 2)."""
    terms: tuple[Term, ...] = TERMS
    """What "four-term" attention weighs keys by (An Empirical Study of Spatial Attention
    Mechanisms, table 1)."""
    map_size: tuple[int, int] = (42, 42)
    """Height and width, in tokens, of the largest level for "synthesizer" attention."""
    map_rank: int = 0
    """Rank of the two factors of a "synthesizer" map; 0 does not factorise it (Synthesizer,
    sections 3.1 and 3.2)."""
    pre_norm: bool = False
    """Normalise what enters attention and perceptron (TSP), not their sums with it (DETR)."""

    def __post_init__(self) -> None:
        check_counts(self, "encoder.", "num_layers", "num_heads", "num_points", "ffn_width")
        check_counts(self, "encoder.", "map_rank", least=0)
        check_numbers(self, "encoder.", "dropout", most=1)
        if not self.terms or not set(self.terms) <= set(TERMS):
            raise ValueError(f"encoder.terms is {self.terms}: expected some of {' '.join(TERMS)}.")
        if len(self.map_size) != 2 or not all(is_count(side, 1) for side in self.map_size):
            raise ValueError(
                f"encoder.map_size is {self.map_size}: expected a height and a width in tokens, "
                "such as 42 42."
            )


@dataclass(frozen=True, kw_only=True)
class QueryConfig:
    """Where the decoder's queries come from."""

    num_queries: int = 300
    source: Literal["learned", "two-stage", "tokens"] = "learned"
    """Learned vectors, the best-scored tokens of the encoder (Deformable DETR, section 4.2), or
    all tokens of the encoder, each predicting without a decoder (TSP, section 3.3)."""
    content: Literal["learned", "proposal", "zeros"] = "learned"
    """What a query holds before the first layer: a learned vector, one made from its proposal
    (two-stage only), or zeros (DETR)."""
    references: bool = True
    """Whether queries carry reference points; DETR's do not."""

    def __post_init__(self) -> None:
        check_counts(self, "queries.", "num_queries")
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
    look_forward_twice: bool = False
    """While training with refinement, the loss of a layer's box also corrects the layer before
    (DINO, section 3.5)."""

    def __post_init__(self) -> None:
        if self.look_forward_twice and not self.refined:
            raise ValueError(
                "decoder.look_forward_twice is true, but decoder.refined is false: without "
                "refinement no box starts from an earlier one; set decoder.refined."
            )
        check_counts(self, "decoder.", "num_layers", least=0)
        check_counts(self, "decoder.", "num_heads", "num_points", "ffn_width")
        check_numbers(self, "decoder.", "dropout", most=1)


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
