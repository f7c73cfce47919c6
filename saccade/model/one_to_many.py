"""Queries that learn every object several times while training (H-DETR, section 3.2)."""

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from saccade.config import DetectorConfig
from saccade.model.queries import LearnedQueries
from saccade.model.two_stage import ProposalQueries
from saccade.structures import Predictions, Queries, Tokens


class OneToMany(nn.Module):
    """Puts more queries behind the detector's own while training; neither see the others.

    They start as the detector's own do: from learned vectors, or from the proposals that score next
    best. With few tokens there may be fewer of them.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.num_queries = config.one_to_many.num_queries
        self.learned: LearnedQueries | None = None
        self.content: nn.Embedding | None = None
        if config.queries.source == "learned":
            more = replace(config.queries, num_queries=self.num_queries)
            self.learned = LearnedQueries(more, config.width)
        elif config.queries.content == "learned":
            self.content = nn.Embedding(self.num_queries, config.width)

    def forward(
        self, queries: Queries, memory: Tokens, source: LearnedQueries | ProposalQueries
    ) -> Queries:
        """The given queries, then the further ones; `source` is what made the given ones."""
        if self.learned is not None:
            more = self.learned(memory)
        else:
            assert isinstance(source, ProposalQueries)
            assert queries.proposals is not None
            most = min(source.num_queries + self.num_queries, queries.proposals.logits.shape[1])
            ranks = range(source.num_queries, most)
            more = source.start_from(queries.proposals, ranks, self.content)
        references = None
        if queries.references is not None:
            references = torch.cat([queries.references, more.references], 1)
        return replace(
            queries,
            content=torch.cat([queries.content, more.content], 1),
            positions=torch.cat([queries.positions, more.positions], 1),
            references=references,
            blocked=_blocked(queries, more),
            num_extra=more.content.shape[1],
        )


def separate(predictions: Predictions, queries: Queries, repeats: int) -> Predictions:
    """Predictions of the detector's own queries; those that only training has, beside them.

    Args:
        predictions: Of all queries: noised ones, the detector's own, and those of `OneToMany`.
        queries: What `predictions` started from.
        repeats: How many queries of `OneToMany` learn each object.
    """
    if queries.matches is None and not queries.num_extra:
        return predictions
    first, last = queries.num_noised, queries.content.shape[1] - queries.num_extra
    own = replace(_part(predictions, slice(first, last)), proposals=predictions.proposals)
    if queries.matches is not None:
        noised = _part(predictions, slice(first))
        noised = replace(noised, matches=queries.matches, num_groups=queries.num_groups)
        own = replace(own, denoising=noised)
    if queries.num_extra:
        extra = replace(_part(predictions, slice(last, None)), num_groups=repeats)
        own = replace(own, one_to_many=extra)
    return own


def _part(predictions: Predictions, rows: slice) -> Predictions:
    """Some queries of the last layer and of the auxiliary ones."""
    last, *auxiliary = (
        Predictions(layer.logits[:, rows], layer.boxes[:, rows])
        for layer in (predictions, *predictions.auxiliary)
    )
    return replace(last, auxiliary=tuple(auxiliary))


def _blocked(own: Queries, more: Queries) -> Bool[Tensor, "R R"]:
    kinds = torch.arange(own.content.shape[1] + more.content.shape[1]) < own.content.shape[1]
    return (kinds[:, None] != kinds).to(own.content.device)
