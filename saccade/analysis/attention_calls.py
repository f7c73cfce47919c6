"""What the attention layers of a detector were called with, and the points that they looked at."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from saccade.analysis.attention_weights import (
    dense_log_weights,
    map_logits,
    sampling_points,
    sampling_weights,
)
from saccade.attention import (
    DeformableAttention,
    DenseAttention,
    FourTermAttention,
    LevelwiseDeformableAttention,
    SynthesizerAttention,
)
from saccade.model import DetectorModel
from saccade.model.decoder import DecoderLayer
from saccade.model.encoder import EncoderLayer, token_centres
from saccade.structures import Tokens

KEYS_PER_HEAD = 4
"""Where every key is weighed, the strongest so many of each head are shown: as many as a
deformable head has points on a level."""


@dataclass(frozen=True)
class AttentionCall:
    """One layer's attention over the image, and what it was called with."""

    attention: nn.Module
    query: Float[Tensor, "B Q C"]
    """Positions added."""
    references: Float[Tensor, "B Q _"] | None
    """``p_q``: x, y or cx, cy, w, h, fraction of image; None in DETR's decoder."""
    memory: Tokens

    @property
    def deformable(self) -> bool:
        """Whether it samples points; otherwise it weighs every key."""
        return isinstance(self.attention, DeformableAttention | LevelwiseDeformableAttention)


@dataclass
class AttentionCalls:
    """The calls of one forward pass, filled while it runs."""

    tokens: Tokens | None = None
    """What entered the encoder."""
    encoder: list[AttentionCall] = field(default_factory=list)
    """Self-attention of the tokens, first layer first."""
    decoder: list[AttentionCall] = field(default_factory=list)
    """Cross-attention of the queries, first layer first."""


@contextmanager
def watch_attention(model: DetectorModel) -> Iterator[AttentionCalls]:
    """Note what the layers of a model are called with by this thread, from outside of its forward.

    Other threads may run the model meanwhile: their calls are theirs.
    """
    calls = AttentionCalls()
    here = threading.get_ident()

    def note_tokens(module: nn.Module, inputs: tuple[Tokens]) -> None:  # noqa: ARG001
        if threading.get_ident() == here:
            calls.tokens = inputs[0]

    def note(noted: list[AttentionCall], module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if threading.get_ident() == here:
            noted.append(AttentionCall(module, *inputs))

    handles = [model.encoder.register_forward_pre_hook(note_tokens)]
    try:
        for layer in (*model.encoder.layers, *model.decoder.layers):
            if isinstance(layer, EncoderLayer):
                attention, noted = layer.attention, calls.encoder
            else:
                assert isinstance(layer, DecoderLayer)
                attention, noted = layer.cross_attention, calls.decoder
            handles.append(attention.register_forward_pre_hook(partial(note, noted)))
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def points_looked_at(call: AttentionCall, queries: Int64[Tensor, " N"]) -> Float[Tensor, "N _ 5"]:
    """Where some queries of the first image looked: x, y, weight, level, head.

    x, y are fractions of the image. Deformable attention has all of its points here: the weights
    of a head sum to 1. Of the others, each head's `KEYS_PER_HEAD` strongest keys are here, at
    the centres of their tokens, strongest first.

    Args:
        call: What the layer was called with.
        queries: Which queries; of self-attention, which tokens.
    """
    attention = call.attention
    if isinstance(attention, LevelwiseDeformableAttention):
        found = [_of_own_level(attention.attention, call, query) for query in queries.tolist()]
        return torch.cat(found) if found else call.query.new_zeros(0, 0, 5)
    if isinstance(attention, DeformableAttention):
        return _sampled(attention, call, queries)
    return _strongest(call, _weights_of_keys(call, queries))


def _sampled(
    attention: DeformableAttention, call: AttentionCall, queries: Int64[Tensor, " N"]
) -> Float[Tensor, "N _ 5"]:
    assert call.references is not None
    query, references = call.query[:1, queries], call.references[:1, queries]
    weights = sampling_weights(attention, query)[0]
    points = sampling_points(attention, query, references, first_image(call.memory))[0]
    heads, samples = weights.shape[1:]
    level = torch.arange(samples, device=weights.device) // attention.num_points
    head = torch.arange(heads, device=weights.device)
    rest = [weights, level.expand_as(weights), head[:, None].expand_as(weights)]
    return torch.cat([points, torch.stack(rest, -1)], -1).flatten(1, 2)


def _of_own_level(
    attention: DeformableAttention, call: AttentionCall, query: int
) -> Float[Tensor, "1 _ 5"]:
    """Of a token that looks at its own level alone."""
    level, start = 0, 0
    sizes = [height * width for height, width in call.memory.spatial_shapes]
    while query >= start + sizes[level]:
        start += sizes[level]
        level += 1
    of_level = replace(
        call.memory,
        spatial_shapes=call.memory.spatial_shapes[level : level + 1],
        valid_ratios=call.memory.valid_ratios[:, level : level + 1],
    )
    index = torch.tensor([query], device=call.query.device)
    points = _sampled(attention, replace(call, memory=of_level), index)
    points[..., 3] = level
    return points


def _weights_of_keys(call: AttentionCall, queries: Int64[Tensor, " N"]) -> Float[Tensor, "N M S"]:
    attention, memory = call.attention, first_image(call.memory)
    blocked = None if memory.mask is None else memory.mask[:, None, None]
    if isinstance(attention, DenseAttention):
        keys = memory.features + memory.positions
        query = call.query[:1, queries]
        weights = dense_log_weights(attention.attention, query, keys, blocked)[0].exp()
    else:
        assert isinstance(attention, SynthesizerAttention | FourTermAttention)
        logits = map_logits(attention, call.query[:1], memory)[0].float()
        logits = logits.expand(-1, call.query.shape[1], -1)[:, queries]
        if blocked is not None:
            logits = logits.masked_fill(blocked[0], -torch.inf)
        weights = logits.softmax(-1)
    return weights.transpose(0, 1)


def _strongest(call: AttentionCall, weights: Float[Tensor, "N M S"]) -> Float[Tensor, "N _ 5"]:
    strongest = weights.topk(min(KEYS_PER_HEAD, weights.shape[-1]), -1)
    centres = _centres(call.memory)[strongest.indices]
    head = torch.arange(weights.shape[1], device=weights.device)[:, None]
    rest = [
        strongest.values,
        torch.zeros_like(strongest.values),
        head.expand_as(strongest.values).to(weights.dtype),
    ]
    return torch.cat([centres, torch.stack(rest, -1)], -1).flatten(1, 2)


def _centres(memory: Tokens) -> Float[Tensor, "S 2"]:
    if memory.origins is not None:
        return memory.origins.boxes[0, :, :2].float()
    return token_centres(memory.spatial_shapes, memory.valid_ratios[:1])[0].float()


def first_image(memory: Tokens) -> Tokens:
    """The tokens of the first image of a batch."""
    return replace(
        memory,
        features=memory.features[:1],
        positions=memory.positions[:1],
        mask=None if memory.mask is None else memory.mask[:1],
        valid_ratios=memory.valid_ratios[:1],
    )
