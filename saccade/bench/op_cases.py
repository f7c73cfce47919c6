"""What the operator is measured on: shapes that detectors have, and where their samples fall."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Sampling = Literal["local", "uniform"]
SAMPLINGS: tuple[Sampling, ...] = ("local", "uniform")

_IMAGE_800X1066 = ((100, 134), (50, 67), (25, 34), (13, 17))
_IMAGE_800X1333 = ((100, 167), (50, 84), (25, 42), (13, 21))
_IMAGE_640X640 = ((80, 80), (40, 40), (20, 20))

# No sample comes closer than this share of a token to where the slope jumps: there, rounding
# would decide which of two right gradients a contender gives.
_AWAY_FROM_KINKS = 0.01
# Added to token centres. Offsets in half precision are whole or dyadic numbers of tokens, and
# would take samples from one token centre exactly to another.
_OFF_CENTRE = 0.1234


@dataclass(frozen=True, kw_only=True)
class OpShape:
    """Sizes of one call of the operator."""

    levels: tuple[tuple[int, int], ...]
    """(height, width) in tokens."""
    num_images: int = 1
    num_queries: int = 0
    """0 stands for an encoder: one query at every token."""
    num_heads: int = 8
    num_channels: int = 32
    """Per head."""
    num_points: int = 4
    """Per level."""
    boxed: bool = False
    """Whether references are boxes, as in iterative refinement, or else points."""

    def __post_init__(self) -> None:
        sizes = (
            *(side for level in self.levels for side in level),
            *(self.num_images, self.num_heads, self.num_channels, self.num_points),
        )
        if not self.levels or min(sizes) < 1 or self.num_queries < 0:
            raise ValueError(
                f"{self}: expected sizes of at least 1; queries alone may be 0, for an encoder."
            )

    @property
    def num_tokens(self) -> int:
        """S: tokens of all levels."""
        return sum(height * width for height, width in self.levels)

    @property
    def queries(self) -> int:
        """Q: as counted by the operator."""
        return self.num_queries or self.num_tokens

    @property
    def num_samples(self) -> int:
        """Samples of all images, queries and heads."""
        per_query = self.num_heads * len(self.levels) * self.num_points
        return self.num_images * self.queries * per_query


_ENCODER = OpShape(levels=_IMAGE_800X1066)
_LARGE_ENCODER = OpShape(levels=_IMAGE_800X1333, num_images=2)
_RTDETR_DECODER = OpShape(levels=_IMAGE_640X640, num_queries=300, boxed=True)

SHAPES: Mapping[str, OpShape] = {
    "encoder": _ENCODER,
    "encoder-b2": replace(_ENCODER, num_images=2),
    "encoder-d64": replace(_ENCODER, num_channels=64),
    "decoder": replace(_ENCODER, num_queries=300),
    "decoder-b2": replace(_ENCODER, num_queries=300, num_images=2),
    "rtdetr-decoder": _RTDETR_DECODER,
    "rtdetr-decoder-b16": replace(_RTDETR_DECODER, num_images=16),
    "large-encoder-b2": _LARGE_ENCODER,
    "large-encoder-b2-d64": replace(_LARGE_ENCODER, num_channels=64),
    "large-encoder-b16": replace(_LARGE_ENCODER, num_images=16),
    "large-decoder-b2": replace(_LARGE_ENCODER, num_queries=300),
    "large-decoder-b16": replace(_LARGE_ENCODER, num_queries=300, num_images=16),
}
"""Images of 800x1066 (encoder, decoder), 800x1333 (large) and 640x640 (RT-DETR) pixels."""


@dataclass(frozen=True)
class OpCase:
    """A shape, and where its samples fall."""

    name: str
    shape: OpShape
    sampling: Sampling


_DEFAULT = {
    "cpu": ("encoder", "encoder-b2", "encoder-d64", "decoder", "rtdetr-decoder"),
    "cuda": ("large-encoder-b2", "large-encoder-b2-d64", "large-decoder-b2", "rtdetr-decoder"),
}
# The others are sampled locally only, unless they are named: the whole should take minutes.
_SAMPLED_BOTH_WAYS = ("encoder", "decoder", "large-encoder-b2", "large-decoder-b2")


def default_cases(device: str) -> list[OpCase]:
    """What is measured on such a device (``cpu`` or ``cuda``) if nothing is named."""
    return [
        OpCase(name, SHAPES[name], sampling)
        for name in _DEFAULT[device]
        for sampling in SAMPLINGS
        if sampling == "local" or name in _SAMPLED_BOTH_WAYS
    ]


def named_cases(names: Sequence[str], samplings: Sequence[Sampling]) -> list[OpCase]:
    """The cases of these shapes.

    Raises:
        ValueError: If there is no such shape.
    """
    for name in names:
        if name not in SHAPES:
            raise ValueError(
                f'there is no shape "{name}": expected some of {", ".join(SHAPES)}, '
                "or --levels for one of your own."
            )
    return [OpCase(name, SHAPES[name], sampling) for name in names for sampling in samplings]


Inputs = dict[str, Tensor]
"""Everything a contender may ask for, by name: `value` [B, S, M, D] and `grad_out` [B, Q, M*D];
`reference_points` [B, Q, 1, 2 or 4], `sampling_offsets` [B, Q, M, K, 2] and `attention_logits`
[B, Q, M, K] with K = L*P; and what follows from these, `sampling_locations` [B, Q, M, L, P, 2] and
`attention_weights` [B, Q, M, L, P]. Frame of references and locations: fraction of padded map."""


def build_inputs(case: OpCase, dtype: torch.dtype, device: torch.device) -> Inputs:
    """Random inputs, always the same; value, offsets, logits and output gradient in ``dtype``.

    Local samples fall as those of a trained detector do, some tokens around their query: at the
    star that every layer starts from, blurred by a token. Uniform samples fall anywhere on the
    map, which no cache likes.
    """
    shape = case.shape
    random = torch.Generator().manual_seed(0)
    size = (shape.num_images, shape.queries, shape.num_heads)
    num_samples = len(shape.levels) * shape.num_points
    value_size = (shape.num_images, shape.num_tokens, shape.num_heads, shape.num_channels)
    references = _references(shape, random)
    inputs = {
        "value": torch.randn(value_size, generator=random).to(dtype),
        "grad_out": torch.randn(
            (*size[:2], shape.num_heads * shape.num_channels), generator=random
        ).to(dtype),
        "reference_points": references[:, :, None],
        "sampling_offsets": _offsets(case, references, random).to(dtype),
        "attention_logits": torch.randn((*size, num_samples), generator=random).to(dtype),
    }
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    inputs["sampling_locations"], inputs["attention_weights"] = locations_and_weights(
        shape.levels,
        inputs["reference_points"],
        inputs["sampling_offsets"],
        inputs["attention_logits"],
    )
    return inputs


def _references(shape: OpShape, random: torch.Generator) -> Float[Tensor, "B Q R"]:
    if shape.num_queries:
        centres = torch.rand(shape.num_images, shape.queries, 2, generator=random)
    else:
        grids = [
            torch.cartesian_prod(
                (torch.arange(height) + 0.5 + _OFF_CENTRE) / height,
                (torch.arange(width) + 0.5 + _OFF_CENTRE) / width,
            )
            for height, width in shape.levels
        ]
        centres = torch.cat(grids).flip(-1).expand(shape.num_images, -1, -1)
    if not shape.boxed:
        return centres.contiguous()
    sides = 0.05 + 0.3 * torch.rand(shape.num_images, shape.queries, 2, generator=random)
    return torch.cat([centres, sides], -1)


def _offsets(
    case: OpCase, references: Float[Tensor, "B Q R"], random: torch.Generator
) -> Float[Tensor, "B Q M K 2"]:
    shape = case.shape
    extents = torch.tensor([(width, height) for height, width in shape.levels])[:, None]
    # From offsets to fractions of the map: one factor for each [B, Q, M, L, P, 2].
    unit = 1 / extents.float()
    if shape.boxed:
        unit = references[:, :, None, None, None, 2:] * (0.5 / shape.num_points)
    centre = references[:, :, None, None, None, :2]
    size = (shape.num_images, shape.queries, shape.num_heads, len(shape.levels), shape.num_points)
    if case.sampling == "local":
        offsets = torch.randn((*size, 2), generator=random).add_(_star(shape)[:, None])
        pixels = (centre + offsets * unit) * extents - 0.5
    else:
        pixels = torch.rand((*size, 2), generator=random) * extents - 0.5
    near = pixels.floor()
    pixels = near + (pixels - near).clamp(_AWAY_FROM_KINKS, 1 - _AWAY_FROM_KINKS)
    return (((pixels + 0.5) / extents - centre) / unit).flatten(3, 4)


def _star(shape: OpShape) -> Float[Tensor, "M P 2"]:
    """Where an untrained layer looks (Deformable DETR, appendix A.4), in units of its offsets."""
    angles = torch.arange(shape.num_heads) * (2 * math.pi / shape.num_heads)
    directions = torch.stack([angles.cos(), angles.sin()], -1)
    directions = directions / directions.abs().amax(-1, keepdim=True)
    return directions[:, None] * torch.arange(1, shape.num_points + 1)[:, None]


def locations_and_weights(
    levels: Sequence[tuple[int, int]],
    reference_points: Float[Tensor, "B Q _ R"],
    sampling_offsets: Float[Tensor, "B Q M K 2"],
    attention_logits: Float[Tensor, "B Q M K"],
) -> tuple[Float[Tensor, "B Q M L P 2"], Float[Tensor, "B Q M L P"]]:
    """What a model calculates for an operator that is not fused, in float32 at least."""
    num_heads, num_samples = attention_logits.shape[2:]
    grouped = (len(levels), num_samples // len(levels))
    weights = torch.unflatten(attention_logits.to(reference_points.dtype).softmax(-1), -1, grouped)
    offsets = sampling_offsets.to(reference_points.dtype)
    centre = reference_points[:, :, None, :, None, :2]
    if reference_points.shape[-1] == 2:
        # Divided as one long row: a CPU is slow at broadcasting over the inner pairs.
        divisor = _extents(tuple(levels), (num_heads, *grouped), offsets.dtype, offsets.device)
        shares = offsets.flatten(2) / divisor
        return centre + torch.unflatten(shares, -1, (num_heads, *grouped, 2)), weights
    unit = reference_points[:, :, None, :, None, 2:] * (0.5 / grouped[1])
    return centre + torch.unflatten(offsets, 3, grouped) * unit, weights


@functools.lru_cache(maxsize=16)
def _extents(
    levels: tuple[tuple[int, int], ...],
    samples: tuple[int, int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> Float[Tensor, "_"]:
    """(width, height) of its level for every sample of a query; once, since copies stall GPUs."""
    extents = torch.tensor(levels, dtype=dtype).flip(-1)
    return extents[:, None].expand(*samples, 2).flatten().to(device)
