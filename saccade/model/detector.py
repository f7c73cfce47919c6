"""The detector: each line of `forward` is a box of the papers' figures."""

from collections.abc import Sequence
from functools import partial

from torch import nn

from saccade.attention import DeformableAttention, DenseAttention
from saccade.config import DecoderConfig, DetectorConfig, EncoderConfig
from saccade.model.backbone import Backbone
from saccade.model.decoder import Decoder
from saccade.model.denoising import Denoising, separate_noised
from saccade.model.encoder import Encoder
from saccade.model.heads import Heads, make_heads
from saccade.model.neck import LevelProjection
from saccade.model.positions import TokenPositions
from saccade.model.queries import LearnedQueries
from saccade.model.two_stage import ProposalQueries
from saccade.structures import Batch, Predictions, Targets


class DetectorModel(nn.Module):
    """One wiring for every system; a `DetectorConfig` says which parts it has."""

    def __init__(self, config: DetectorConfig, pretrained_backbone: bool = False) -> None:
        super().__init__()
        width = config.neck.width
        self.backbone = Backbone(config.backbone, pretrained_backbone)
        self.neck = LevelProjection(config.neck, self.backbone.channels)
        self.positions = TokenPositions(config.positions, width, config.num_levels)
        self.encoder = Encoder(config.encoder, width, partial(_attention, config.encoder, config))
        class_head, box_head = make_heads(config)
        heads = Heads(config, class_head, box_head)
        self.queries = (
            ProposalQueries(config, class_head, box_head)
            if config.queries.source == "two-stage"
            else LearnedQueries(config.queries, width)
        )
        self.denoising = Denoising(config) if config.denoising.num_queries else None
        self.decoder = Decoder(
            config.decoder, width, partial(_attention, config.decoder, config), heads
        )

    def forward(self, batch: Batch, targets: Sequence[Targets] | None = None) -> Predictions:
        """Detect the objects of a batch of images.

        Args:
            batch: Normalised, padded images.
            targets: Only for training with denoising: what the noised queries start from.

        Returns:
            One scored box per query, ``cx, cy, w, h``, fraction of image.
        """
        features = self.backbone(batch.images)
        levels = self.neck(features)
        tokens = self.positions(levels, batch)
        memory = self.encoder(tokens)
        queries = self.queries(memory)
        if self.denoising is not None and targets is not None:
            queries = self.denoising(queries, targets, self.queries.embed)
        predictions = self.decoder(queries, memory)
        return separate_noised(predictions, queries)


def _attention(part: EncoderConfig | DecoderConfig, config: DetectorConfig) -> nn.Module:
    if part.attention == "dense":
        return DenseAttention(config.neck.width, part.num_heads, part.dropout)
    return DeformableAttention(
        config.neck.width, part.num_heads, config.num_levels, part.num_points
    )
