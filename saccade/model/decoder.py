"""Queries look at each other, then at the image, and say what they found after every layer."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from saccade.attention import MultiheadAttention
from saccade.config_parts import DecoderConfig
from saccade.model.dropout import Dropout
from saccade.model.feed_forward import FeedForward
from saccade.model.heads import Heads
from saccade.model.refinement import move_boxes, refine_boxes
from saccade.structures import Predictions, Queries, Tokens

# The logit of what cannot be; finite, so that its loss and gradient are zero and not NaN.
_IMPOSSIBLE = -1e4


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and a perceptron, each added and normalised."""

    def __init__(self, config: DecoderConfig, width: int, cross_attention: nn.Module) -> None:
        super().__init__()
        self.self_attention = MultiheadAttention(width, config.num_heads, config.dropout)
        self.self_norm = nn.LayerNorm(width)
        self.cross_attention = cross_attention
        self.cross_norm = nn.LayerNorm(width)
        self.dropout = Dropout(config.dropout)
        self.ffn = FeedForward(width, config.ffn_width, config.dropout)

    def forward(self, queries: Queries, memory: Tokens) -> Queries:
        """The same queries with new contents."""
        content = queries.content
        located = content + queries.positions
        seen = self.self_attention(located, located, content, queries.blocked)
        content = self.self_norm(content + self.dropout(seen))
        seen = self.cross_attention(content + queries.positions, queries.references, memory)
        content = self.cross_norm(content + self.dropout(seen))
        return replace(queries, content=self.ffn(content))


class Decoder(nn.Module):
    """A stack of layers; `cross_attention` makes the cross-attention of one."""

    def __init__(
        self,
        config: DecoderConfig,
        width: int,
        cross_attention: Callable[[], nn.Module],
        heads: Heads,
    ) -> None:
        super().__init__()
        self.refined = config.refined
        self.look_forward_twice = config.look_forward_twice
        self.layers = nn.ModuleList(
            DecoderLayer(config, width, cross_attention()) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(width) if config.final_norm else nn.Identity()
        self.heads = heads

    def forward(self, queries: Queries, memory: Tokens) -> Predictions:
        """The last layer's predictions, with the earlier ones as `auxiliary`.

        With refinement, the box after layer i is the reference of layer i + 1; no gradient flows
        through it (section 4.2), or, where the decoder looks forward twice, into layer i alone
        (DINO, section 3.5). Without layers the queries are the memory's tokens, and those of
        the padding see nothing.
        """
        if not self.layers:
            logits, delta = self.heads(0, self.norm(queries.content))
            boxes = (
                delta.sigmoid()
                if queries.references is None
                else move_boxes(delta, queries.references)
            )
            return Predictions(self._hide_padding(logits, memory), boxes, origins=queries.origins)
        found = []
        earlier = None
        for index, layer in enumerate(self.layers):
            queries = layer(queries, memory)
            logits, delta = self.heads(index, self.norm(queries.content))
            boxes = refine_boxes(delta, queries.references)
            predicted = boxes if earlier is None else refine_boxes(delta, earlier)
            found.append(Predictions(logits, predicted))
            if self.refined:
                queries = replace(queries, references=boxes.detach())
            if self.look_forward_twice and torch.is_grad_enabled():
                earlier = boxes
        return replace(found[-1], auxiliary=tuple(found[:-1]), proposals=queries.proposals)

    def _hide_padding(self, logits: Tensor, memory: Tokens) -> Tensor:
        if memory.mask is None:
            return logits
        nothing = torch.full_like(logits[0, 0], _IMPOSSIBLE)
        nothing[self.heads.num_classes :] = 0.0
        return torch.where(memory.mask[..., None], nothing, logits)
