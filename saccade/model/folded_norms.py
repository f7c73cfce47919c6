"""Frozen batch norms calculated within the convolutions before them.

A frozen norm multiplies and shifts each channel by constants, which the convolution's weights and
bias can do as well: two passes over every map less, in training too, where their results would
be kept for the gradients. Folding happens in each forward, on the weights alone, so that
parameters, buffers, their names and their gradients stay what they are.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d


class FoldedNorm(FrozenBatchNorm2d):  # type: ignore[misc]
    """A frozen norm that leaves its work to the convolution before it."""

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """What came in."""
        return x

    def constants(self) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
        """The factor and the shift of every channel."""
        factor = self.weight * (self.running_var + self.eps).rsqrt()
        return factor, self.bias - self.running_mean * factor


class FoldedConvolution(nn.Conv2d):
    """A convolution, and the frozen norm after it."""

    norms: tuple[FoldedNorm]
    """In a tuple, so that the norm stays a part of the module that it was a part of."""

    def forward(self, input: Float[Tensor, "B _ _ _"]) -> Float[Tensor, "B _ _ _"]:
        """The norm of the convolution."""
        factor, shift = self.norms[0].constants()
        return self._conv_forward(input, self.weight * factor[:, None, None, None], shift)


def fold_norms(body: nn.Module) -> None:
    """Fold the frozen norms of a ResNet of timm's, in place; others are left as they are."""
    for parent, convolution_name, norm_name in list(_pairs(body)):
        convolution, norm = parent.get_submodule(convolution_name), parent.get_submodule(norm_name)
        # Not the deformable ones, nor norms that train.
        if type(convolution) is not nn.Conv2d or type(norm) is not FrozenBatchNorm2d:
            continue
        if convolution.bias is not None or convolution.padding_mode != "zeros":
            continue
        folded = _as_folded_norm(norm)
        setattr(parent, norm_name, folded)
        setattr(parent, convolution_name, _as_folded_convolution(convolution, folded))


def _pairs(body: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Where a norm is sure to follow a convolution: the module they are in, and their names."""
    if hasattr(body, "conv1") and hasattr(body, "bn1"):
        yield body, "conv1", "bn1"
    for module in body.modules():
        if not isinstance(module, BasicBlock | Bottleneck):
            continue
        for number in (1, 2, 3):
            if hasattr(module, f"conv{number}"):
                yield module, f"conv{number}", f"bn{number}"
        if isinstance(module.downsample, nn.Sequential):
            names = [name for name, _ in module.downsample.named_children()]
            yield module.downsample, names[-2], names[-1]


def _as_folded_norm(norm: FrozenBatchNorm2d) -> FoldedNorm:
    folded = FoldedNorm(norm.weight.shape[0], norm.eps)
    for name, buffer in norm.named_buffers():
        setattr(folded, name, buffer)
    return folded


def _as_folded_convolution(convolution: nn.Conv2d, norm: FoldedNorm) -> FoldedConvolution:
    with torch.device("meta"):
        folded = FoldedConvolution(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,  # type: ignore[arg-type]
            convolution.stride,  # type: ignore[arg-type]
            convolution.padding,  # type: ignore[arg-type]
            convolution.dilation,  # type: ignore[arg-type]
            convolution.groups,
            bias=False,
        )
    folded.weight = convolution.weight
    folded.norms = (norm,)
    return folded
