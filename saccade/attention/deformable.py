"""Multi-scale deformable attention as a module (Deformable DETR, section 4.1, Eq. 3)."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saccade.ops import ms_deform_attn_fused
from saccade.structures import Tokens


class DeformableAttention(nn.Module):
    """Queries look at P points per level around their reference point, in each of M heads."""

    def __init__(self, width: int, num_heads: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(width, samples * 2)
        self.attention_weights = nn.Linear(width, samples)
        self.value_projection = nn.Linear(width, width)
        self.output_projection = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as a fixed star of points: head m looks along 2πm/M, point k at distance k + 1."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        distances = torch.arange(1, self.num_points + 1)
        star = directions[:, None, None] * distances[:, None]
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(star.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_projection, self.output_projection):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Float[Tensor, "B Q C"],
        references: Float[Tensor, "B Q _"],
        memory: Tokens,
    ) -> Float[Tensor, "B Q C"]:
        """Attend from `query`, its position already added, to `memory`.

        A query looks at ``p_q + Δp``. Its offsets ``Δp`` count tokens of each level when the
        reference is a point, and shares of half the box per point when it is a box. How much each
        sample counts, ``A``, is a softmax over levels and points.

        Args:
            query: What looks.
            references: ``p_q``: x, y or cx, cy, w, h, fraction of image.
            memory: What is looked at. Its padding reads as zero.
        """
        value = self.value_projection(memory.features)
        if memory.mask is not None:
            value = value.masked_fill(memory.mask[..., None], 0.0)
        scale = memory.valid_ratios.repeat(1, 1, references.shape[-1] // 2)
        gathered = ms_deform_attn_fused(
            value.unflatten(-1, (self.num_heads, -1)),
            memory.spatial_shapes,
            references[:, :, None] * scale[:, None],
            self.sampling_offsets(query).unflatten(-1, (self.num_heads, -1, 2)),
            self.attention_weights(query).unflatten(-1, (self.num_heads, -1)),
        )
        return self.output_projection(gathered)


class LevelwiseDeformableAttention(nn.Module):
    """Tokens look at P points of their own level alone (Deformable DETR, table 2, third row)."""

    def __init__(self, width: int, num_heads: int, num_points: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(width, num_heads, 1, num_points)

    def forward(
        self,
        query: Float[Tensor, "B S C"],
        references: Float[Tensor, "B S _"],
        memory: Tokens,
    ) -> Float[Tensor, "B S C"]:
        """Attend from the tokens of `memory`, their position already added, to their levels."""
        sizes = [height * width for height, width in memory.spatial_shapes]
        masks = [None] * len(sizes) if memory.mask is None else torch.split(memory.mask, sizes, 1)
        attended = []
        start = 0
        for level, size in enumerate(sizes):
            tokens = slice(start, start + size)
            of_level = replace(
                memory,
                features=memory.features[:, tokens],
                positions=memory.positions[:, tokens],
                mask=masks[level],
                spatial_shapes=memory.spatial_shapes[level : level + 1],
                valid_ratios=memory.valid_ratios[:, level : level + 1],
            )
            attended.append(self.attention(query[:, tokens], references[:, tokens], of_level))
            start += size
        return torch.cat(attended, 1)
