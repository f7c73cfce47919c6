"""Attention maps without keys (Synthesizer: Rethinking Self-Attention, Tay et al. 2021)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from saccade.attention.map_memory import check_map_memory
from saccade.structures import Tokens

Size = tuple[int, int]


class SynthesizerAttention(nn.Module):
    """softmax(map) V in M heads; the map is made from each query alone, or learned outright.

    The paper learns maps over a longest sequence. Here they are learned over the largest level, a
    grid of ``h x w`` tokens: the token at (row, column) has entry ``row * w + column``, as query
    and as key, whatever the size of its image.

    Args:
        width: C, the channels of a token.
        num_heads: M; divides the width.
        dropout: How often a weight is dropped while training.
        map_size: Height and width of the largest level, in tokens.
        rank: Of the factorised map; 0 does not factorise it.
        dense: Whether the map is made from the queries (section 3.1) or learned (section 3.2).

    Raises:
        ValueError: If the learned map is too large to be stored.
    """

    def __init__(
        self, width: int, num_heads: int, dropout: float, map_size: Size, rank: int, dense: bool
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.map_size = map_size
        if dense and rank:
            self.map: nn.Module = FactorisedDenseMap(width, num_heads, map_size, rank)
        elif dense:
            self.map = DenseMap(width, num_heads, map_size)
        elif rank:
            self.map = FactorisedRandomMap(num_heads, map_size, rank)
        else:
            self.map = RandomMap(num_heads, map_size)
        self.value_projection = nn.Linear(width, width)
        self.output_projection = nn.Linear(width, width)
        for projection in (self.value_projection, self.output_projection):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Float[Tensor, "B S C"],
        references: Float[Tensor, "B S _"] | None,  # noqa: ARG002 - one interface for all kinds
        memory: Tokens,
    ) -> Float[Tensor, "B S C"]:
        """Attend from the tokens of `memory` to its one level; `references` play no part.

        Args:
            query: The features of `memory` with their positions added; a learned map looks at
                nothing of them.
            references: Not used.
            memory: What is gathered: one level. Its padding is not looked at.

        Raises:
            ValueError: If the level is larger than the map.
        """
        assert len(memory.spatial_shapes) == 1, memory.spatial_shapes
        size = memory.spatial_shapes[0]
        self._check_size(size)
        logits = self.map(query, size)
        if memory.mask is not None:
            logits = logits.masked_fill(memory.mask[:, None, None], -torch.inf)
        # Half precision is too coarse for the sum over all keys.
        weights = logits.softmax(-1, torch.promote_types(logits.dtype, torch.float32))
        if self.training and self.dropout:
            # A learned map is one for all images, but each drops weights of its own.
            weights = F.dropout(weights.expand(len(query), -1, -1, -1), self.dropout)
        value = self.value_projection(memory.features).unflatten(-1, (self.num_heads, -1))
        gathered = torch.einsum("bmqk,bkmd->bqmd", weights.to(value.dtype), value)
        return self.output_projection(gathered.flatten(2))

    def _check_size(self, size: Size) -> None:
        (height, width), (rows, columns) = size, self.map_size
        if height > rows or width > columns:
            raise ValueError(
                f"the level has {height} x {width} tokens: expected at most {rows} x {columns}, "
                "over which the attention map is learned; set encoder.map_size to at least "
                f"{max(height, rows)} {max(width, columns)} and train, or make the images smaller."
            )


class DenseMap(nn.Module):
    """Each head's row of the map is Linear-ReLU-Linear(q) (section 3.1)."""

    def __init__(self, width: int, num_heads: int, map_size: Size) -> None:
        super().__init__()
        self.row = HeadPerceptron(width, num_heads, map_size)

    def forward(self, query: Float[Tensor, "B S C"], size: Size) -> Float[Tensor, "B M S S"]:
        """The map over the tokens of a level of `size`."""
        return self.row(query, size).flatten(3)


class FactorisedDenseMap(nn.Module):
    """A row of the map is the product of a vector over the grid's rows and one over its columns.

    The paper repeats two vectors of lengths a and b, ab tokens in all, each along the other, and
    multiplies them: with the grid's height and width for a and b, that is rank 1. A higher rank
    adds as many such products.
    """

    def __init__(self, width: int, num_heads: int, map_size: Size, rank: int) -> None:
        super().__init__()
        self.rank = rank
        # The sum of the products varies as one of them does.
        spread = rank**-0.25
        self.over_rows = HeadPerceptron(width, num_heads, (map_size[0], rank), spread)
        self.over_columns = HeadPerceptron(width, num_heads, (map_size[1], rank), spread)

    def forward(self, query: Float[Tensor, "B S C"], size: Size) -> Float[Tensor, "B M S S"]:
        """The map over the tokens of a level of `size`."""
        over_rows = self.over_rows(query, (size[0], self.rank))
        over_columns = self.over_columns(query, (size[1], self.rank))
        return (over_rows @ over_columns.transpose(-1, -2)).flatten(3)


class RandomMap(nn.Module):
    """A learned map for each head, the same for all inputs (section 3.2).

    Raises:
        ValueError: If it is too large to be stored.
    """

    def __init__(self, num_heads: int, map_size: Size) -> None:
        super().__init__()
        tokens = map_size[0] * map_size[1]
        check_map_memory(
            f"a learned attention map over {map_size[0]} x {map_size[1]} tokens",
            (num_heads, tokens, tokens),
            "set encoder.map_rank to factorise it, such as 8, or make encoder.map_size smaller",
        )
        self.logits = nn.Parameter(torch.randn(num_heads, *map_size, *map_size))

    def forward(
        self,
        query: Float[Tensor, "B S C"],  # noqa: ARG002 - one interface for all maps
        size: Size,
    ) -> Float[Tensor, "1 M S S"]:
        """The map over the tokens of a level of `size`."""
        height, width = size
        used = self.logits[:, :height, :width, :height, :width]
        return used.flatten(3).flatten(1, 2)[None]


class FactorisedRandomMap(nn.Module):
    """A learned map R1 R2^T for each head, with R1 and R2 of a low rank (section 3.2)."""

    def __init__(self, num_heads: int, map_size: Size, rank: int) -> None:
        super().__init__()
        # Their product varies as the map that is not factorised does: by 1.
        spread = rank**-0.25
        self.of_queries = nn.Parameter(torch.randn(num_heads, *map_size, rank) * spread)
        self.of_keys = nn.Parameter(torch.randn(num_heads, *map_size, rank) * spread)

    def forward(
        self,
        query: Float[Tensor, "B S C"],  # noqa: ARG002 - one interface for all maps
        size: Size,
    ) -> Float[Tensor, "1 M S S"]:
        """The map over the tokens of a level of `size`."""
        height, width = size
        of_queries = self.of_queries[:, :height, :width].flatten(1, 2)
        of_keys = self.of_keys[:, :height, :width].flatten(1, 2)
        return (of_queries @ of_keys.transpose(-1, -2))[None]


class HeadPerceptron(nn.Module):
    """Linear-ReLU-Linear from each query to a grid of numbers, with weights of each head's own.

    A head has D = C / M hidden channels. Of the grid only the part that a level needs is
    calculated.
    """

    def __init__(self, width: int, num_heads: int, grid: Size, spread: float = 1.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        hidden = width // num_heads
        self.hidden = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.hidden.weight)
        nn.init.zeros_(self.hidden.bias)
        self.weight = nn.Parameter(torch.empty(num_heads, *grid, hidden))
        nn.init.normal_(self.weight, std=spread * hidden**-0.5)
        self.bias = nn.Parameter(torch.zeros(num_heads, *grid))

    def forward(self, query: Float[Tensor, "B S C"], size: Size) -> Float[Tensor, "B M S _ _"]:
        """The first `size` numbers of each query's grid."""
        rows, columns = size
        hidden = self.hidden(query).relu().unflatten(-1, (self.num_heads, -1))
        weight = self.weight[:, :rows, :columns]
        made = torch.einsum("bqmd,mhwd->bmqhw", hidden, weight)
        return made + self.bias[:, None, :rows, :columns]
