"""The detector: each line of `forward` is a box of the papers' figures."""

from collections.abc import Sequence
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from saccade.attention import (
    DeformableAttention,
    DenseAttention,
    FourTermAttention,
    LevelwiseDeformableAttention,
    SynthesizerAttention,
)
from saccade.config import DetectorConfig
from saccade.config_parts import DecoderConfig, EncoderConfig
from saccade.model.backbone import Backbone
from saccade.model.decoder import Decoder
from saccade.model.denoising import Denoising
from saccade.model.depth import Layers, layers_from_image
from saccade.model.encoder import Encoder
from saccade.model.features_of_interest import FeaturesOfInterest
from saccade.model.freezing import freeze, statistics_of
from saccade.model.heads import BoxHead, Heads, make_heads
from saccade.model.neck import make_neck
from saccade.model.one_to_many import OneToMany, separate
from saccade.model.positions import TokenPositions
from saccade.model.queries import LearnedQueries, TokenQueries
from saccade.model.region_proposals import RegionProposals
from saccade.model.two_stage import ProposalQueries
from saccade.structures import Batch, Predictions, Targets, Tokens


class DetectorModel(nn.Module):
    """One wiring for every system; a `DetectorConfig` says which parts it has."""

    def __init__(self, config: DetectorConfig, pretrained_backbone: bool = False) -> None:
        super().__init__()
        width = config.width
        self.backbone = Backbone(config.backbone, pretrained_backbone)
        self.neck = make_neck(config.neck, self.backbone.channels)
        self.selection = _selection(config)
        self.positions = (
            TokenPositions(config.positions, width, config.num_levels)
            if self.selection is None
            else None
        )
        self.encoder = Encoder(config.encoder, width, partial(_encoder_attention, config))
        class_head, box_head = make_heads(config)
        heads = Heads(config, class_head, box_head)
        self.queries = _queries(config, class_head, box_head)
        self.denoising = Denoising(config) if config.denoising.num_queries else None
        self.one_to_many = OneToMany(config) if config.one_to_many.num_queries else None
        self.repeats = config.one_to_many.repeats
        self.decoder = Decoder(
            config.decoder, width, partial(_decoder_attention, config, config.decoder), heads
        )
        self.frozen: tuple[str, ...] = ()

    def forward(self, batch: Batch, targets: Sequence[Targets] | None = None) -> Predictions:
        """Detect the objects of a batch of images.

        Args:
            batch: Normalised, padded images.
            targets: Only for training with denoising, whose noised queries start from them, and
                of sparse detectors, which learn from them where objects are.

        Returns:
            One scored box per query, ``cx, cy, w, h``, fraction of image.
        """
        features = self.backbone(batch.images)
        levels = self.neck(features)
        tokens = self.tokens(levels, batch, targets)
        memory = self.encoder(tokens)
        queries = self.queries(memory)
        if self.one_to_many is not None and targets is not None:
            queries = self.one_to_many(queries, memory, self.queries)
        if self.denoising is not None and targets is not None:
            queries = self.denoising(queries, targets, self.queries.embed)
        predictions = self.decoder(queries, memory)
        return separate(predictions, queries, self.repeats)

    def tokens(
        self,
        levels: Sequence[Float[Tensor, "B _ _ _"]],
        batch: Batch,
        targets: Sequence[Targets] | None = None,
    ) -> Tokens:
        """What enters the encoder: all tokens of the levels, or in TSP those that are selected."""
        if self.selection is not None:
            return self.selection(levels, batch, targets)
        assert self.positions is not None
        return self.positions(levels, batch)

    def freeze(self, parts: Sequence[str]) -> None:
        """Take parts out of training for good, the statistics of their batch norms too.

        Args:
            parts: Attributes of modules, such as "backbone" or "encoder.layers.0".

        Raises:
            ValueError: If there is no such part, or nothing would be left to train.
        """
        freeze(self, parts)
        self.frozen = (*self.frozen, *parts)
        self.train(self.training)

    def train(self, mode: bool = True) -> "DetectorModel":
        """Set the mode of everything but the batch norms of frozen parts, which stay as they are.

        See `freeze`.
        """
        super().train(mode)
        for norm in statistics_of(self, self.frozen):
            norm.eval()
        return self

    def layers_from_image(self) -> Layers:
        """The parameters by their layer, for learning rates that fall with the distance."""
        return layers_from_image(self)


def _selection(config: DetectorConfig) -> nn.Module | None:
    if config.selection.kind == "fcos":
        return FeaturesOfInterest(config)
    return RegionProposals(config) if config.selection.kind == "rcnn" else None


def _queries(config: DetectorConfig, class_head: nn.Linear, box_head: BoxHead) -> nn.Module:
    if config.queries.source == "two-stage":
        return ProposalQueries(config, class_head, box_head)
    if config.queries.source == "tokens":
        return TokenQueries()
    return LearnedQueries(config.queries, config.width)


def _encoder_attention(config: DetectorConfig) -> nn.Module:
    width, part = config.width, config.encoder
    if part.attention == "deformable" and not part.across_levels:
        return LevelwiseDeformableAttention(width, part.num_heads, part.num_points)
    if part.attention == "four-term":
        return FourTermAttention(width, part.num_heads, part.dropout, part.terms)
    if part.attention in ("synthesizer-dense", "synthesizer-random"):
        dense = part.attention == "synthesizer-dense"
        return SynthesizerAttention(
            width, part.num_heads, part.dropout, part.map_size, part.map_rank, dense
        )
    return _decoder_attention(config, part)


def _decoder_attention(config: DetectorConfig, part: EncoderConfig | DecoderConfig) -> nn.Module:
    width = config.width
    if part.attention == "dense":
        return DenseAttention(width, part.num_heads, part.dropout)
    return DeformableAttention(width, part.num_heads, config.num_levels, part.num_points)
