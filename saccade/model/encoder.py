"""Self-attention over the tokens of all levels (Deformable DETR, section 4.1)."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saccade.config_parts import EncoderConfig
from saccade.model.dropout import Dropout
from saccade.model.feed_forward import FeedForward
from saccade.structures import Tokens


class EncoderLayer(nn.Module):
    """Attention and a perceptron, each added to its input and normalised, or the other way."""

    def __init__(self, config: EncoderConfig, width: int, attention: nn.Module) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.attention = attention
        self.dropout = Dropout(config.dropout)
        self.norm = nn.LayerNorm(width)
        self.ffn = FeedForward(width, config.ffn_width, config.dropout, config.pre_norm)

    def forward(self, tokens: Tokens, references: Float[Tensor, "B S 2"]) -> Tokens:
        """The same tokens with new features."""
        seen = replace(tokens, features=self.norm(tokens.features)) if self.pre_norm else tokens
        attended = self.attention(seen.features + seen.positions, references, seen)
        summed = tokens.features + self.dropout(attended)
        features = summed if self.pre_norm else self.norm(summed)
        return replace(tokens, features=self.ffn(features))


class Encoder(nn.Module):
    """A stack of layers; `attention` makes the attention of one."""

    def __init__(
        self, config: EncoderConfig, width: int, attention: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(config, width, attention()) for _ in range(config.num_layers)
        )

    def forward(self, tokens: Tokens) -> Tokens:
        """The memory: the same tokens after all layers."""
        if tokens.origins is None:
            references = token_centres(tokens.spatial_shapes, tokens.valid_ratios)
        else:
            references = tokens.origins.boxes[..., :2]
        for layer in self.layers:
            tokens = layer(tokens, references)
        return tokens


def token_centres(
    spatial_shapes: Sequence[tuple[int, int]], valid_ratios: Float[Tensor, "B L 2"]
) -> Float[Tensor, "B S 2"]:
    """The centre x, y of every token, fraction of image; beyond 1 in the padding.

    >>> token_centres([(1, 2)], torch.ones(1, 1, 2)).tolist()
    [[[0.25, 0.5], [0.75, 0.5]]]
    """
    centres = []
    for level, (height, width) in enumerate(spatial_shapes):
        ratio = valid_ratios[:, level, None]
        x = (torch.arange(width, device=ratio.device) + 0.5) / (ratio[..., 0] * width)
        y = (torch.arange(height, device=ratio.device) + 0.5) / (ratio[..., 1] * height)
        shape = (ratio.shape[0], height, width)
        grid = torch.stack([x[:, None].expand(shape), y[:, :, None].expand(shape)], -1)
        centres.append(grid.flatten(1, 2))
    return torch.cat(centres, 1)
