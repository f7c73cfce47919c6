"""From the backbone's maps to levels of one width (Deformable DETR, appendix A.2)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from saccade.config_parts import NeckConfig
from saccade.model.pyramids import BidirectionalPyramid, FeaturePyramid, level_convolution


def make_neck(config: NeckConfig, channels: Sequence[int]) -> nn.Module:
    """The neck of a detector: from maps of these channels to levels of width C, finest first.

    Raises:
        ValueError: If a pyramid is asked for over a single level.
    """
    if config.kind == "projection":
        return LevelProjection(config, channels)
    num_levels = len(channels) + config.num_extra_levels
    if num_levels == 1:
        raise ValueError(
            f'neck.kind is "{config.kind}", but there is one level, which has nothing to exchange '
            'with: add levels to backbone.levels or set neck.kind to "projection".'
        )
    pyramid = FeaturePyramid if config.kind == "fpn" else BidirectionalPyramid
    return PyramidNeck(config, channels, pyramid(config, num_levels))


class LevelProjection(nn.Module):
    """A 1x1 convolution for every map, then extra levels by strided 3x3 convolutions.

    There is no top-down path: attention across levels exchanges what a pyramid would. The first
    extra level starts from the raw last map of the backbone.
    """

    def __init__(self, config: NeckConfig, channels: Sequence[int]) -> None:
        super().__init__()
        self.num_maps = len(channels)
        extras = [channels[-1]] + [config.width] * (config.num_extra_levels - 1)
        self.levels = nn.ModuleList(
            [level_convolution(config, inputs, kernel=1) for inputs in channels]
            + [
                level_convolution(config, inputs, kernel=3, stride=2)
                for inputs in extras[: config.num_extra_levels]
            ]
        )

    def forward(
        self, features: Sequence[Float[Tensor, "B _ _ _"]]
    ) -> list[Float[Tensor, "B C _ _"]]:
        """Levels of width C, finest first."""
        levels = [level(map_) for level, map_ in zip(self.levels, features, strict=False)]
        source = features[-1]
        for extra in self.levels[self.num_maps :]:
            levels.append(extra(source))
            source = levels[-1]
        return levels


class PyramidNeck(LevelProjection):
    """A level projection whose levels a pyramid then fuses; it holds the weights of a plain one."""

    def __init__(
        self,
        config: NeckConfig,
        channels: Sequence[int],
        pyramid: FeaturePyramid | BidirectionalPyramid,
    ) -> None:
        super().__init__(config, channels)
        self.pyramid = pyramid

    def forward(
        self, features: Sequence[Float[Tensor, "B _ _ _"]]
    ) -> list[Float[Tensor, "B C _ _"]]:
        """Levels of width C, finest first."""
        return self.pyramid(super().forward(features))
