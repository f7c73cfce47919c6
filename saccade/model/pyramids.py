"""What exchanges between levels before the encoder: feature pyramids, one way and both ways."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from saccade.config_parts import NeckConfig

Levels = Sequence[Float[Tensor, "B C _ _"]]


class FeaturePyramid(nn.Module):
    """Adds every level to the finer one, coarsest first, then smooths all (Lin et al. 2017).

    The extra levels take part, too. Each output convolution is followed by the neck's norm.
    """

    def __init__(self, config: NeckConfig, num_levels: int) -> None:
        super().__init__()
        self.outputs = nn.ModuleList(
            level_convolution(config, config.width, kernel=3) for _ in range(num_levels)
        )

    def forward(self, levels: Levels) -> list[Float[Tensor, "B C _ _"]]:
        """Levels of the same sizes."""
        merged = [levels[-1]]
        for level in reversed(levels[:-1]):
            merged.append(level + enlarge(merged[-1], level))
        pairs = zip(self.outputs, reversed(merged), strict=True)
        return [output(level) for output, level in pairs]


class BidirectionalPyramid(nn.Module):
    """Rounds of weighted fusion down and up again (EfficientDet, section 3.2; Tan et al. 2020)."""

    def __init__(self, config: NeckConfig, num_levels: int) -> None:
        super().__init__()
        self.rounds = nn.ModuleList(
            BidirectionalRound(config, num_levels) for _ in range(config.num_rounds)
        )

    def forward(self, levels: Levels) -> list[Float[Tensor, "B C _ _"]]:
        """Levels of the same sizes."""
        fused = list(levels)
        for each in self.rounds:
            fused = each(fused)
        return fused


class BidirectionalRound(nn.Module):
    """One round over at least two levels (EfficientDet, figure 3 (d)).

    Going down the pyramid, the levels between the coarsest and the finest get an intermediate
    map; going up, they fuse it with their input once more.
    """

    def __init__(self, config: NeckConfig, num_levels: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(Fusion(config, 2) for _ in range(num_levels - 1))
        self.up = nn.ModuleList(
            [Fusion(config, 3) for _ in range(num_levels - 2)] + [Fusion(config, 2)]
        )

    def forward(self, levels: Levels) -> list[Float[Tensor, "B C _ _"]]:
        """Levels of the same sizes."""
        merged = [levels[-1]]
        for fusion, level in zip(self.down, reversed(levels[:-1]), strict=True):
            merged.append(fusion([level, enlarge(merged[-1], level)]))
        outputs = [merged.pop()]
        for fusion, level in zip(self.up, levels[1:], strict=True):
            between = merged.pop()
            # The coarsest level has no intermediate map: it is its own.
            inputs = [level] if between is level else [level, between]
            outputs.append(fusion([*inputs, shrink(outputs[-1], level)]))
        return outputs


class Fusion(nn.Module):
    """Fast normalised fusion, then a depthwise-separable convolution (EfficientDet, equation 3)."""

    def __init__(self, config: NeckConfig, num_inputs: int) -> None:
        super().__init__()
        width = config.width
        self.weights = nn.Parameter(torch.ones(num_inputs))
        self.activation = nn.SiLU()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.pointwise = level_convolution(config, width, kernel=1)

    def forward(self, maps: Levels) -> Float[Tensor, "B C _ _"]:
        """One map from maps of one size."""
        weights = self.weights.relu()
        weights = weights / (weights.sum() + 1e-4)
        terms = [weight * map_ for weight, map_ in zip(weights, maps, strict=True)]
        fused = torch.stack(terms).sum(0)
        return self.pointwise(self.depthwise(self.activation(fused)))


def enlarge(
    level: Float[Tensor, "B C _ _"], like: Float[Tensor, "B C H W"]
) -> Float[Tensor, "B C H W"]:
    """A coarse level at exactly the size of a finer one, by its nearest values."""
    if level.shape[-2:] == like.shape[-2:]:
        return level
    return F.interpolate(level, size=like.shape[-2:], mode="nearest")


def shrink(
    level: Float[Tensor, "B C _ _"], like: Float[Tensor, "B C H W"]
) -> Float[Tensor, "B C H W"]:
    """A fine level at exactly the size of a coarser one, by its largest values around.

    A dilated stage has the size of the one before, and some backbones round sizes down.
    """
    if level.shape[-2:] == like.shape[-2:]:
        return level
    return enlarge(F.max_pool2d(level, 3, stride=2, padding=1), like)


def level_convolution(
    config: NeckConfig, inputs: int, kernel: int, stride: int = 1
) -> nn.Sequential:
    """A convolution to the neck's width, with the neck's norm."""
    convolution = nn.Conv2d(inputs, config.width, kernel, stride, padding=kernel // 2)
    if config.norm == "none":
        return nn.Sequential(convolution)
    nn.init.xavier_uniform_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.GroupNorm(32, config.width))
