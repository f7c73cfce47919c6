"""From the backbone's maps to levels of one width (Deformable DETR, appendix A.2)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from saccade.config import NeckConfig


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
            [_projection(config, inputs, kernel=1, stride=1) for inputs in channels]
            + [
                _projection(config, inputs, kernel=3, stride=2)
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


def _projection(config: NeckConfig, inputs: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, config.width, kernel, stride, padding=kernel // 2)
    if config.norm == "none":
        return nn.Sequential(convolution)
    nn.init.xavier_uniform_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.GroupNorm(32, config.width))
