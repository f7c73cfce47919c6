"""Where a token or a box is, as sines and cosines, and the tokens that carry it."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from saccade.config_parts import PositionConfig
from saccade.structures import Batch, Tokens

TEMPERATURE = 10_000.0


def sine_embedding(fractions: Float[Tensor, "*N"], channels: int) -> Float[Tensor, "*N {channels}"]:
    """Interleaved sines and cosines of 2π times a fraction (Vaswani et al. 2017, section 3.5).

    >>> sine_embedding(torch.tensor(0.25), 2).round(decimals=3).abs().tolist()
    [1.0, 0.0]
    """
    exponents = torch.arange(0, channels, 2, device=fractions.device) / channels
    angles = fractions[..., None] * (2 * math.pi) / TEMPERATURE ** exponents.to(fractions.dtype)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)


def box_embedding(boxes: Float[Tensor, "*N 4"], width: int) -> Float[Tensor, "*N 2*{width}"]:
    """Half the width for each of cx, cy, w, h, fraction of image (two-stage queries)."""
    return sine_embedding(boxes, width // 2).flatten(-2)


class TokenPositions(nn.Module):
    """Flattens levels into tokens and says where each token is (appendix A.4)."""

    def __init__(self, config: PositionConfig, width: int, num_levels: int) -> None:
        super().__init__()
        self.width = width
        self.offset = 0.5 if config.centred else 0.0
        self.level_embedding = (
            nn.Parameter(torch.randn(num_levels, width)) if config.level_embedding else None
        )

    def forward(self, levels: Sequence[Float[Tensor, "B C _ _"]], batch: Batch) -> Tokens:
        """One sequence of tokens from the levels of a batch."""
        masks = [_level_mask(level, batch) for level in levels]
        positions = [self.sine(mask) for mask in masks]
        if self.level_embedding is not None:
            pairs = zip(positions, self.level_embedding, strict=True)
            positions = [position + level for position, level in pairs]
        return Tokens(
            features=torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1),
            positions=torch.cat(positions, 1),
            mask=torch.cat([mask.flatten(1) for mask in masks], 1) if batch.padded else None,
            spatial_shapes=tuple((level.shape[2], level.shape[3]) for level in levels),
            valid_ratios=torch.stack([_valid_ratio(mask) for mask in masks], 1),
        )

    def sine(self, mask: Bool[Tensor, "B H W"]) -> Float[Tensor, "B H*W C"]:
        """Half the channels for y and half for x, counted over the tokens that are not padding."""
        axes = []
        for axis in (1, 2):
            counted = (~mask).cumsum(axis, dtype=torch.float32)
            last = counted.narrow(axis, counted.shape[axis] - 1, 1)
            axes.append(sine_embedding((counted - self.offset) / (last + 1e-6), self.width // 2))
        return torch.cat(axes, -1).flatten(1, 2)


def _level_mask(level: Float[Tensor, "B C H W"], batch: Batch) -> Bool[Tensor, "B H W"]:
    resized = F.interpolate(batch.mask[:, None].float(), size=level.shape[-2:], mode="nearest")
    return resized[:, 0] > 0.5


def _valid_ratio(mask: Bool[Tensor, "B H W"]) -> Float[Tensor, "B 2"]:
    valid = ~mask
    return torch.stack([valid[:, 0].float().mean(-1), valid[:, :, 0].float().mean(-1)], -1)
