"""Attention in which every query weighs every key (Vaswani et al. 2017, section 3.2)."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from saccade.structures import Tokens


class MultiheadAttention(nn.Module):
    """softmax(Q K^T / sqrt(D)) V in M heads, with biased projections."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query_projection = nn.Linear(width, width)
        self.key_projection = nn.Linear(width, width)
        self.value_projection = nn.Linear(width, width)
        self.output_projection = nn.Linear(width, width)
        for projection in (self.query_projection, self.key_projection, self.value_projection):
            # The official projections are one matrix [3C, C]: Xavier sees C + 3C, not C + C.
            nn.init.xavier_uniform_(projection.weight, gain=2**-0.5)
            nn.init.zeros_(projection.bias)
        nn.init.xavier_uniform_(self.output_projection.weight)
        nn.init.zeros_(self.output_projection.bias)

    def forward(
        self,
        query: Float[Tensor, "B Q C"],
        key: Float[Tensor, "B S C"],
        value: Float[Tensor, "B S C"],
        blocked: Bool[Tensor, "... S"] | None = None,
    ) -> Float[Tensor, "B Q C"]:
        """Attend from queries to keys.

        Args:
            query: What looks.
            key: What is compared with the queries.
            value: What is gathered.
            blocked: True where a query must not look, broadcastable to [B, M, Q, S].
        """
        attended = F.scaled_dot_product_attention(
            self._split(self.query_projection(query)),
            self._split(self.key_projection(key)),
            self._split(self.value_projection(value)),
            attn_mask=None if blocked is None else ~blocked,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.output_projection(attended.transpose(1, 2).flatten(2))

    def _split(self, projected: Float[Tensor, "B N C"]) -> Float[Tensor, "B M N D"]:
        return projected.view(*projected.shape[:-1], self.num_heads, -1).transpose(1, 2)


class DenseAttention(nn.Module):
    """Queries look at every token of the memory, as in DETR."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = MultiheadAttention(width, num_heads, dropout)

    def forward(
        self,
        query: Float[Tensor, "B Q C"],
        references: Float[Tensor, "B Q _"] | None,  # noqa: ARG002 - one interface for all kinds
        memory: Tokens,
    ) -> Float[Tensor, "B Q C"]:
        """Attend from `query`, its position already added; `references` play no part."""
        blocked = None if memory.mask is None else memory.mask[:, None, None]
        keys = memory.features + memory.positions
        return self.attention(query, keys, memory.features, blocked)
