"""Learned object queries (DETR, section 3.2; Deformable DETR, appendix A.4), or none."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saccade.config_parts import QueryConfig
from saccade.structures import Queries, Tokens


class LearnedQueries(nn.Module):
    """The same queries for every image: positions, reference points made from them, contents."""

    def __init__(self, config: QueryConfig, width: int) -> None:
        super().__init__()
        self.positions = nn.Embedding(config.num_queries, width)
        self.content = (
            nn.Embedding(config.num_queries, width) if config.content == "learned" else None
        )
        self.reference_points = nn.Linear(width, 2) if config.references else None
        if self.reference_points is not None:
            nn.init.xavier_uniform_(self.reference_points.weight)
            nn.init.zeros_(self.reference_points.bias)

    def forward(self, memory: Tokens) -> Queries:
        """The queries, once for every image of the memory."""
        positions = self.positions.weight.expand(memory.features.shape[0], -1, -1)
        return Queries(
            content=positions.new_zeros(positions.shape)
            if self.content is None
            else self.content.weight.expand_as(positions),
            positions=positions,
            references=None
            if self.reference_points is None
            else _points(self.reference_points, positions),
        )


def _points(projection: nn.Linear, positions: Float[Tensor, "B Q C"]) -> Float[Tensor, "B Q 2"]:
    device = positions.device.type
    # Shapes alone, on the meta device, have no such thing.
    if not torch.amp.is_autocast_available(device):
        return projection(positions).sigmoid()
    # In bf16 a point in the middle of an image would be known to three pixels only.
    with torch.autocast(device, enabled=False):
        return projection(positions).sigmoid()


class TokenQueries(nn.Module):
    """Every token of the memory is a query, as in encoder-only DETR (TSP, section 3.3)."""

    def forward(self, memory: Tokens) -> Queries:
        """The tokens; those that were selected refer to the box they come from."""
        origins = memory.origins
        references = None if origins is None else origins.boxes
        return Queries(memory.features, memory.positions, references, origins=origins)
