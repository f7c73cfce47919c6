"""Feature maps C_l of stride 2**l from a convolutional network, timm's or the small one."""

from collections.abc import Sequence
from typing import Any

import timm
import torch
from jaxtyping import Float
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn

from saccade.config import BackboneConfig
from saccade.model.small_resnet import SmallResNet


class Backbone(nn.Module):
    """The maps named in the configuration, finest first.

    Raises:
        ValueError: If timm does not know the model, or it has no map of a wanted stride.
    """

    def __init__(self, config: BackboneConfig, pretrained: bool = False) -> None:
        super().__init__()
        if config.name == "small-resnet":
            strides, channels = SmallResNet.strides, SmallResNet.channels
            self.positions = [_position(level, config, strides) for level in config.levels]
            body: Any = SmallResNet(num_stages=self.positions[-1] + 1)
        else:
            body = _timm_body(config, pretrained)
            strides, channels = body.feature_info.reduction(), body.feature_info.channels()
            self.positions = [_position(level, config, strides) for level in config.levels]
            if self.positions[-1] + 1 < len(strides):
                # Stages beyond the last map would be computed for nothing.
                body = _timm_body(config, pretrained, out_indices=range(self.positions[-1] + 1))
            _freeze_stages(body, config.num_frozen_stages)
        self.channels = [channels[position] for position in self.positions]
        if config.norm == "frozen":
            body = freeze_batch_norm_2d(body)
        self.body = body.to(memory_format=torch.channels_last)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Feature maps of normalised images."""
        # Convolutions on a CPU run about a sixth faster with the channels innermost.
        maps = self.body(images.contiguous(memory_format=torch.channels_last))
        return [maps[position] for position in self.positions]


def _timm_body(
    config: BackboneConfig, pretrained: bool, out_indices: Sequence[int] | None = None
) -> Any:
    if not timm.is_model(config.name):
        raise ValueError(
            f'backbone.name is "{config.name}", which timm {timm.__version__} does not have: '
            "expected a name from timm.list_models(), or small-resnet."
        )
    options: dict[str, Any] = {"output_stride": 16} if config.dilated else {}
    if out_indices is not None:
        options["out_indices"] = tuple(out_indices)
    name = config.name
    if pretrained and timm.list_pretrained(f"{name}.tv_in1k"):
        # The official detectors start from torchvision's weights, timm by default from newer ones.
        name = f"{name}.tv_in1k"
    return timm.create_model(name, features_only=True, pretrained=pretrained, **options)


def _position(level: int, config: BackboneConfig, strides: Sequence[int]) -> int:
    if config.dilated and level == max(config.levels):
        return len(strides) - 1
    if 2**level not in strides:
        raise ValueError(
            f"backbone.levels asks for C{level} of stride {2**level}, but {config.name} has "
            f"strides {list(strides)}: choose among {[s.bit_length() - 1 for s in strides]}."
        )
    return strides.index(2**level)


def _freeze_stages(body: Any, num_frozen: int) -> None:
    if not num_frozen:
        return
    last = body.feature_info.module_name()[num_frozen - 1]
    for name, child in list(body.named_children()):
        child.requires_grad_(False)
        # Their statistics stay, too, also where the other norms are trained.
        setattr(body, name, freeze_batch_norm_2d(child))
        if name == last:
            return
