"""The weights and points of an attention layer, calculated from what it was called with."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saccade.attention import (
    DeformableAttention,
    FourTermAttention,
    MultiheadAttention,
    SynthesizerAttention,
)
from saccade.structures import Tokens

MOST_WEIGHTS = 2**24
"""How many weights are held at a time: 64 MiB of them."""


def dense_log_weights(
    attention: MultiheadAttention,
    query: Float[Tensor, "B Q C"],
    key: Float[Tensor, "B S C"],
    blocked: Bool[Tensor, "... S"] | None = None,
) -> Float[Tensor, "B M Q S"]:
    """The logarithms of softmax(Q K^T / sqrt(D)), in float32; minus infinity where blocked.

    Args:
        attention: The layer; its dropout plays no part.
        query: What looks.
        key: What is compared with the queries.
        blocked: True where a query must not look, broadcastable to the result.
    """
    queries, keys = (
        projection(each).float().unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for projection, each in (
            (attention.query_projection, query),
            (attention.key_projection, key),
        )
    )
    scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
    if blocked is not None:
        scores = scores.masked_fill(blocked, -torch.inf)
    return scores.log_softmax(-1)


def query_chunks(
    attention: MultiheadAttention, query: Float[Tensor, "B Q C"], key: Float[Tensor, "B S C"]
) -> Iterator[Float[Tensor, "B _ C"]]:
    """The queries in parts whose weights fit into `MOST_WEIGHTS`."""
    weights_of_one = len(query) * attention.num_heads * key.shape[1]
    size = max(1, MOST_WEIGHTS // max(1, weights_of_one))
    yield from torch.split(query, size, 1)


def map_logits(
    attention: SynthesizerAttention | FourTermAttention,
    query: Float[Tensor, "B S C"],
    memory: Tokens,
) -> Float[Tensor, "_ M _ S"]:
    """What a layer that makes whole maps takes the softmax of; one for all images or queries, or
    one for each."""
    size = memory.spatial_shapes[0]
    if isinstance(attention, SynthesizerAttention):
        return attention.map(query, size)
    queries, keys = attention.vectors(memory.features, size, len(query))
    width = memory.features.shape[-1] // attention.num_heads
    return queries @ keys.transpose(-1, -2) * width**-0.5


def sampling_weights(
    attention: DeformableAttention, query: Float[Tensor, "B Q C"]
) -> Float[Tensor, "B Q M K"]:
    """``A``: the softmax over the K = L * P points of each head, in float32."""
    logits = attention.attention_weights(query).float()
    return logits.unflatten(-1, (attention.num_heads, -1)).softmax(-1)


def sampling_points(
    attention: DeformableAttention,
    query: Float[Tensor, "B Q C"],
    references: Float[Tensor, "B Q _"],
    memory: Tokens,
) -> Float[Tensor, "B Q M K 2"]:
    """``p_q + Δp`` as x, y, fraction of image; all points of the first level, then of the next.

    Args:
        attention: The layer.
        query: What looks.
        references: ``p_q``: x, y or cx, cy, w, h, fraction of image.
        memory: What is looked at; its levels say how long an offset of one token is.
    """
    points = attention.num_points
    offsets = attention.sampling_offsets(query).float()
    offsets = offsets.unflatten(-1, (attention.num_heads, -1, points, 2))
    centre = references[:, :, None, None, None, :2].float()
    if references.shape[-1] == 2:
        sizes = torch.tensor(
            [[width, height] for height, width in memory.spatial_shapes],
            dtype=offsets.dtype,
            device=offsets.device,
        )
        # In tokens of the padded map; the image is a share of it.
        steps = 1 / (sizes * memory.valid_ratios)[:, None, None, :, None]
    else:
        steps = references[:, :, None, None, None, 2:].float() / (2 * points)
    return (centre + offsets * steps).flatten(3, 4)
