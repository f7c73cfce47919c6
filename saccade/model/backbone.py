"""Feature maps C_l of stride 2**l from a network of timm's, or from the small one."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import timm
import torch
from jaxtyping import Float
from timm.layers import PatchEmbed, freeze_batch_norm_2d
from torch import Tensor, nn

from saccade.config_parts import BackboneConfig
from saccade.model.deformable_convolution import replace_convolutions
from saccade.model.folded_norms import fold_norms
from saccade.model.small_resnet import SmallResNet


class Backbone(nn.Module):
    """The maps named in the configuration, finest first.

    "Frozen" norms are frozen batch norms; other norms, as ConvNeXt and Swin have, train.

    Raises:
        ValueError: If timm does not know the model, or it has no map of a wanted stride, cannot be
            dilated, or lacks the stages that are to be frozen or made deformable.
    """

    def __init__(self, config: BackboneConfig, pretrained: bool = False) -> None:
        super().__init__()
        if config.name == "small-resnet":
            strides, channels = list(SmallResNet.strides), list(SmallResNet.channels)
            self.positions = [_position(level, config, strides) for level in config.levels]
            body: Any = SmallResNet(num_stages=self.positions[-1] + 1)
            paths = [f"stages.{position}" for position in range(len(body.stages))]
        else:
            info, options = _probe(config)
            strides, channels = info.reduction(), info.channels()
            self.positions = [_position(level, config, strides) for level in config.levels]
            # Stages beyond the last map would be computed for nothing.
            options["out_indices"] = tuple(range(self.positions[-1] + 1))
            body = _create(_tagged(config.name, pretrained), pretrained=pretrained, **options)
            _pad_patches(body)
            paths = [_module_path(body, name) for name in body.feature_info.module_name()]
        self.stage_paths = paths
        stages = dict(zip([stride.bit_length() - 1 for stride in strides], paths, strict=False))
        _make_deformable(body, config, stages)
        _freeze_stages(body, config, stages)
        self.channels = [channels[position] for position in self.positions]
        if config.norm == "frozen":
            body = freeze_batch_norm_2d(body)
            fold_norms(body)
        self.channels_innermost = getattr(body, "output_fmt", "NCHW") == "NHWC"
        self.body = body.to(memory_format=torch.channels_last)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Feature maps of normalised images."""
        # Convolutions on a CPU run about a sixth faster with the channels innermost.
        maps = self.body(images.contiguous(memory_format=torch.channels_last))
        chosen = [maps[position] for position in self.positions]
        if self.channels_innermost:
            return [map_.permute(0, 3, 1, 2) for map_ in chosen]
        return chosen


def _probe(config: BackboneConfig) -> tuple[Any, dict[str, Any]]:
    """What timm says of the maps, before dilation, and the options to create the network with."""
    if not timm.is_model(config.name):
        raise ValueError(
            f'backbone.name is "{config.name}", which timm {timm.__version__} does not have: '
            "expected a name from timm.list_models(), or small-resnet."
        )
    try:
        plain = _empty(config.name)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        raise ValueError(
            f'backbone.name is "{config.name}", of which timm {timm.__version__} gives no feature '
            f"maps ({error}): choose another backbone, such as resnet50."
        ) from error
    info, options = plain.feature_info, _any_size(config.name, plain)
    if config.dilated:
        options["output_stride"] = info.reduction()[-1] // 2
        try:
            reduced = _empty(config.name, **options).feature_info.reduction()[-1]
            problem = f"its last map keeps stride {reduced}"
        except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            reduced, problem = None, str(error)
        if reduced != options["output_stride"]:
            raise ValueError(
                f"backbone.dilated is true, but timm {timm.__version__} cannot dilate "
                f'"{config.name}" ({problem}): unset backbone.dilated or choose another backbone, '
                "such as resnet50."
            )
    return info, options


def _empty(name: str, **options: Any) -> Any:
    with torch.device("meta"):
        return _create(name, pretrained=False, **options)


def _create(name: str, **options: Any) -> Any:
    build = partial(timm.create_model, name, features_only=True, **options)
    device = torch.get_default_device()
    if device.type != "meta":
        return build()
    try:
        return build()
    except RuntimeError:
        # Older timm reads the rates of some networks from tensors, which are empty here.
        with torch.device("cpu"):
            return build().to(device)


def _any_size(name: str, plain: nn.Module) -> dict[str, Any]:
    """The option that lets a network of one image size take any, as far as timm has one."""
    if not any(getattr(module, "strict_img_size", False) for module in plain.modules()):
        return {}
    for option in ({"strict_img_size": False}, {"dynamic_img_size": True}):
        try:
            _empty(name, **option)
        except TypeError:
            continue
        return dict(option)
    return {}


def _pad_patches(body: nn.Module) -> None:
    """Let images fill their last patches with zeros, as convolutions do."""
    for module in body.modules():
        if isinstance(module, PatchEmbed):
            module.dynamic_img_pad = True


def _tagged(name: str, pretrained: bool) -> str:
    # The official detectors start from torchvision's weights, timm by default from newer ones.
    torchvision = f"{name}.tv_in1k"
    return torchvision if pretrained and timm.list_pretrained(torchvision) else name


def _position(level: int, config: BackboneConfig, strides: Sequence[int]) -> int:
    """The index of the last map of a level's stride."""
    if 2**level not in strides:
        raise ValueError(
            f"backbone.levels asks for C{level} of stride {2**level}, but {config.name} has "
            f"strides {list(strides)}: choose among {[s.bit_length() - 1 for s in strides]}."
        )
    return len(strides) - 1 - list(reversed(strides)).index(2**level)


def _module_path(body: nn.Module, name: str) -> str:
    """Where timm's wrapper keeps the module that a map comes from; empty where it cannot be told.

    Some wrappers flatten the first container: "stages.1" becomes "stages_1".
    """
    paths = (name, name.replace(".", "_", 1), f"model.{name}")
    modules = dict(body.named_modules())
    return next((path for path in paths if path in modules), "")


def _stage(level: int, field: str, config: BackboneConfig, stages: Mapping[int, str]) -> str:
    if not stages.get(level):
        known = [f"C{level}" for level, path in stages.items() if path]
        raise ValueError(
            f"{field} asks for C{level} of {config.name}, but the stages that can be told apart, "
            f"up to the last of backbone.levels, are {', '.join(known) or 'none'}: change {field} "
            "or choose another backbone."
        )
    return stages[level]


def _make_deformable(body: nn.Module, config: BackboneConfig, stages: Mapping[int, str]) -> None:
    field = "backbone.deformable_levels"
    if any(level <= config.num_frozen_stages for level in config.deformable_levels):
        raise ValueError(
            f"{field} is {config.deformable_levels}, but backbone.num_frozen_stages is "
            f"{config.num_frozen_stages}: the offsets of frozen stages never train; make only "
            "later stages deformable or freeze fewer."
        )
    paths = [_stage(level, field, config, stages) for level in config.deformable_levels]
    try:
        replace_convolutions(body, paths, config.modulated)
    except ValueError as error:
        raise ValueError(f"{field} with backbone.name {config.name!r}: {error}") from error


def _freeze_stages(body: nn.Module, config: BackboneConfig, stages: Mapping[int, str]) -> None:
    """Freeze the stem, and with it all stages up to C_n: n stages, the stem counting as one."""
    count = config.num_frozen_stages
    if not count:
        return
    first = min(stages)
    through = count >= first
    path = _stage(max(count, first), "backbone.num_frozen_stages", config, stages)
    _freeze_until(body, path.split("."), through)


def _freeze_until(parent: nn.Module, path: Sequence[str], through: bool) -> None:
    """Freeze what is registered before a module, and itself if `through`."""
    for parameter in parent.parameters(recurse=False):
        parameter.requires_grad_(False)
    for name, child in list(parent.named_children()):
        if name == path[0] and len(path) > 1:
            _freeze_until(child, path[1:], through)
            return
        if name != path[0] or through:
            child.requires_grad_(False)
            # Their statistics stay, too, also where the other norms are trained.
            setattr(parent, name, freeze_batch_norm_2d(child))
        if name == path[0]:
            return
