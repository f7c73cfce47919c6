"""Attention as a sum of four terms (An Empirical Study of Spatial Attention Mechanisms in Deep
Networks, Zhu et al. 2019, Eq. 2)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from saccade.attention.map_memory import check_map_memory
from saccade.structures import Tokens

WAVE_LENGTH = 1000.0
"""The longest wave of the relative positions over 2π, in tokens, as in the authors' code."""


class FourTermAttention(nn.Module):
    """softmax(E1 + E2 + E3 + E4) V in M heads, or of any subset of the terms.

    For a query's content z at token q and a key's content x at token k, per head:

    - "query-key", E1 = (U z) · (V^C x), as in the Transformer;
    - "query-position", E2 = (U z) · (V^R R), R the sines and cosines of k - q;
    - "key", E3 = u · (V^C x) with a learned vector u: the same for all queries;
    - "position", E4 = v · (V^R R) with a learned vector v: the same for all images.

    As in the paper U serves both terms of the query, V^C both of the key and V^R both of the
    position; a subset has only what its terms use. No projection of the four has a bias: that of
    U would be a u and a v without their terms. Offsets k - q count tokens, so that padding and
    image size leave them as they are. Unlike Eq. 2 the sum is divided by sqrt(D), which the
    Transformer starts better with; the authors' scale of the residual branch, zero at first, is
    left out, since an encoder layer normalises the sum.

    Nothing of [S, S, C] is stored: R is a part for x and a part for y, so V^R R is a sum of two,
    each of which takes one value per column or row. That makes the four terms one inner product:
    ``[U z + u, X, Y] · [V^C x, one-hot of k's column, one-hot of k's row]``, where X and Y are the
    query's E2 + E4 with every column and every row. The fused kernels of PyTorch on a GPU take it
    without a map; elsewhere the map [B, M, S, S] is stored. The key's term alone needs one row
    of it, the position's alone one map for all images that are not padded.

    Args:
        width: C, the channels of a token.
        num_heads: M; divides the width, which is a multiple of 4.
        dropout: How often a weight is dropped while training; with the key's term alone, whose
            one row all queries share, for all queries at once.
        terms: Which of the four, by their names above.
    """

    def __init__(self, width: int, num_heads: int, dropout: float, terms: Sequence[str]) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.terms = frozenset(terms)
        assert self.terms
        assert self.terms <= {"query-key", "query-position", "key", "position"}
        head_width = width // num_heads
        bound = (2 * head_width) ** -0.5  # as in the authors' code
        if self.terms & {"query-key", "query-position"}:
            self.query_projection = nn.Linear(width, width, bias=False)
        if self.terms & {"query-key", "key"}:
            self.key_projection = nn.Linear(width, width, bias=False)
        if self.terms & {"query-position", "position"}:
            self.relative_x = RelativePositions(width, num_heads)
            self.relative_y = RelativePositions(width, num_heads)
        if "key" in self.terms:
            self.key_vector = nn.Parameter(torch.empty(num_heads, 1, head_width))
            nn.init.uniform_(self.key_vector, -bound, bound)
        if "position" in self.terms:
            self.position_vector = nn.Parameter(torch.empty(num_heads, 1, head_width))
            nn.init.uniform_(self.position_vector, -bound, bound)
        self.value_projection = nn.Linear(width, width)
        self.output_projection = nn.Linear(width, width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self,
        query: Float[Tensor, "B S C"],
        references: Float[Tensor, "B S _"] | None,  # noqa: ARG002 - one interface for all kinds
        memory: Tokens,
    ) -> Float[Tensor, "B S C"]:
        """Attend from the tokens of `memory` to its one level; `references` play no part.

        Args:
            query: Not used but for its shape: it is the content with absolute positions added, and
                in the paper content and position meet in separate terms. The content of a query
                is the feature of its token.
            references: Not used.
            memory: Both what looks and what is looked at: one level. Its padding is not looked at.

        Raises:
            ValueError: If the map of [B, M, S, S] has to be stored and is too large.
        """
        features = memory.features
        assert len(memory.spatial_shapes) == 1, memory.spatial_shapes
        assert query.shape == features.shape, (query.shape, features.shape)
        dropout = self.dropout if self.training else 0.0
        shared = self.terms == {"position"} and memory.mask is None and not dropout
        images = 1 if shared else len(features)
        self._check_memory(features, images)
        queries, keys = self.vectors(features, memory.spatial_shapes[0], images)
        value = self._split(self.value_projection(features))
        if shared:
            value = torch.cat(value.unbind(), -1)[None]
        gathered = F.scaled_dot_product_attention(
            queries,
            keys,
            value,
            attn_mask=None if memory.mask is None else ~memory.mask[:, None, None],
            dropout_p=dropout,
            scale=(features.shape[-1] // self.num_heads) ** -0.5,
        )
        if shared:
            gathered = torch.cat(gathered.chunk(len(features), -1))
        gathered = gathered.expand(-1, -1, features.shape[1], -1)
        return self.output_projection(gathered.transpose(1, 2).flatten(2))

    def vectors(
        self, features: Float[Tensor, "B S C"], size: tuple[int, int], images: int
    ) -> tuple[Float[Tensor, "{images} M Q E"], Float[Tensor, "{images} M S E"]]:
        """The vectors whose inner product is the sum of the terms; Q is 1 or S."""
        terms = self.terms
        content = u = v = None
        if terms & {"query-key", "query-position"}:
            content = self._split(self.query_projection(features))
        if "key" in terms:
            u = self.key_vector[None]
        if "position" in terms:
            v = self.position_vector[None]
        queries, keys = [], []
        if terms & {"query-key", "key"}:
            queries.append(_add(content if "query-key" in terms else None, u))
            keys.append(self._split(self.key_projection(features)))
        if terms & {"query-position", "position"}:
            compared = _add(content if "query-position" in terms else None, v)
            queries.append(self._with_columns_and_rows(compared, size))
            keys.append(_columns_and_rows(size, features))
        shape = (images, self.num_heads)
        return _join(queries, shape), _join(keys, shape)

    def _with_columns_and_rows(
        self, compared: Float[Tensor, "_ M _ D"], size: tuple[int, int]
    ) -> Float[Tensor, "_ M S E"]:
        """What each query has in common with every column and with every row of the level."""
        height, width = size
        grid_size = size if compared.shape[2] > 1 else (1, 1)
        grid = compared.reshape(*compared.shape[:2], *grid_size, -1)
        columns = torch.einsum("bmyxd,mxkd->bmyxk", grid, self.relative_x(width))
        rows = torch.einsum("bmyxd,mykd->bmyxk", grid, self.relative_y(height))
        both = (columns.expand(-1, -1, height, -1, -1), rows.expand(-1, -1, -1, width, -1))
        return torch.cat(both, -1).flatten(2, 3)

    def _check_memory(self, features: Float[Tensor, "B S C"], images: int) -> None:
        """Refuse a map that is too large, where PyTorch has no kernel that does without it."""
        if features.device.type == "cuda" and features.dtype != torch.float64:
            return
        num_keys = features.shape[1]
        num_queries = 1 if self.terms == {"key"} else num_keys
        check_map_memory(
            "the map of four-term attention",
            (images, self.num_heads, num_queries, num_keys),
            'use smaller images or batches, a GPU, or encoder.terms "key" alone, whose map is one '
            "row",
            max(4, features.element_size()),
        )

    def _split(self, projected: Float[Tensor, "B S C"]) -> Float[Tensor, "B M S D"]:
        return projected.view(*projected.shape[:-1], self.num_heads, -1).transpose(1, 2)


class RelativePositions(nn.Module):
    """V^R R along one axis: a head's vector for every offset k - q of a key from a query.

    R holds C/4 sines and as many cosines of the offset in tokens, of waves from 2π to almost
    1000 times 2π tokens long.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_waves = width // 4
        self.projection = nn.Linear(2 * self.num_waves, width, bias=False)

    def forward(self, length: int) -> Float[Tensor, "M {length} {length} D"]:
        """The vectors of every query, then every key, of an axis of `length` tokens."""
        weight = self.projection.weight
        # Half precision would not tell far offsets of the shortest waves apart.
        exact = torch.promote_types(weight.dtype, torch.float32)
        offsets = torch.arange(1 - length, length, device=weight.device, dtype=exact)
        exponents = torch.arange(self.num_waves, device=weight.device, dtype=exact)
        angles = offsets[:, None] / WAVE_LENGTH ** (exponents / self.num_waves)
        waves = torch.cat([angles.sin(), angles.cos()], -1)
        vectors = self.projection(waves.to(weight.dtype)).view(len(waves), self.num_heads, -1)
        tokens = torch.arange(length, device=weight.device)
        return vectors[tokens - tokens[:, None] + length - 1].permute(2, 0, 1, 3)


def _add(
    content: Float[Tensor, "B M S D"] | None, vector: Float[Tensor, "1 M 1 D"] | None
) -> Float[Tensor, "_ M _ D"]:
    if content is None:
        assert vector is not None
        return vector
    return content if vector is None else content + vector


def _columns_and_rows(
    size: tuple[int, int], like: Float[Tensor, "B S C"]
) -> Float[Tensor, "1 1 _ E"]:
    """One-hot vectors of each token's column and row."""
    height, width = size
    columns = torch.eye(width, dtype=like.dtype, device=like.device).expand(height, -1, -1)
    rows = torch.eye(height, dtype=like.dtype, device=like.device)[:, None].expand(-1, width, -1)
    return torch.cat([columns, rows], -1).flatten(0, 1)[None, None]


def _join(
    parts: Sequence[Float[Tensor, "_ _ _ _"]], images_and_heads: tuple[int, int]
) -> Float[Tensor, "B M _ E"]:
    """One vector of all parts, lengthened by zeros to the multiple of 8 that fused kernels need."""
    rows = max(part.shape[2] for part in parts)
    joined = torch.cat([part.expand(*images_and_heads, rows, -1) for part in parts], -1)
    return F.pad(joined, (0, -joined.shape[-1] % 8))
