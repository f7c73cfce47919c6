"""Frozen descriptions of the parts of a detector, in the order in which an image passes them."""

from dataclasses import dataclass
from typing import Literal

from saccade.config_checks import check_counts, check_numbers, is_count, is_finite

AttentionKind = Literal["deformable", "dense"]
EncoderAttentionKind = Literal[
    "deformable", "dense", "synthesizer-dense", "synthesizer-random", "four-term"
]
Term = Literal["query-key", "query-position", "key", "position"]
TERMS: tuple[Term, ...] = ("query-key", "query-position", "key", "position")


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
