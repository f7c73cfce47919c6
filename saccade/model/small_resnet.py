"""A residual network small enough to train from random weights on two CPU cores."""

from torch import Tensor, nn


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, 3, stride)
        self.second = _convolution(outputs, outputs, 3, 1)
        self.shortcut = (
            nn.Identity() if inputs == outputs else _convolution(inputs, outputs, 1, stride)
        )
        self.activation = nn.ReLU(inplace=True)
        # A block that begins as its shortcut trains faster (Goyal et al. 2017, section 5.1).
        last_norm = self.second[1]
        assert isinstance(last_norm, nn.BatchNorm2d)
        nn.init.zeros_(last_norm.weight)

    def forward(self, maps: Tensor) -> Tensor:
        """Residual transform of [B, C, H, W]."""
        residual = self.second(self.activation(self.first(maps)))
        return self.activation(residual + self.shortcut(maps))


class SmallResNet(nn.Module):
    """Stages of 1, 2, 2 and 1 basic blocks behind a stem of stride 4: two million parameters."""

    strides = (4, 8, 16, 32)
    channels = (48, 96, 160, 224)
    blocks = (1, 2, 2, 1)

    def __init__(self, num_stages: int = 4) -> None:
        super().__init__()
        first = self.channels[0]
        self.stem = nn.Sequential(
            _convolution(3, first // 2, 3, 2),
            nn.ReLU(inplace=True),
            _convolution(first // 2, first, 3, 2),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.ModuleList()
        inputs = first
        for index in range(num_stages):
            outputs, count = self.channels[index], self.blocks[index]
            stride = 1 if index == 0 else 2
            self.stages.append(
                nn.Sequential(
                    BasicBlock(inputs, outputs, stride),
                    *(BasicBlock(outputs, outputs, 1) for _ in range(count - 1)),
                )
            )
            inputs = outputs
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps of strides 4, 8, 16 and 32, as far as there are stages."""
        maps = [self.stem(images)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]
