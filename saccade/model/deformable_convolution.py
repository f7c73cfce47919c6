"""Convolutions that sample where learned offsets say (Dai et al. 2017; Zhu et al. 2019)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import deform_conv2d


class DeformableConv2d(nn.Conv2d):
    """A convolution whose samples each move by an offset Δp of their own.

    Offsets come from a convolution over the same input, as does a modulation Δm of every sample
    (Deformable ConvNets v2) where `modulated`: twice a sigmoid, so that it is 1 at first. That
    convolution, `sampling_offsets`, starts from zeros, and the whole as the plain convolution,
    whose `weight` and `bias` keep their names.
    """

    def __init__(self, convolution: nn.Conv2d, modulated: bool = True) -> None:
        """Take over the weight, the bias and the geometry of a convolution.

        Args:
            convolution: Padded by a number of zeros, of any kernel, stride, dilation and groups.
            modulated: Whether samples are weighed (v2), not only moved (v1).

        Raises:
            ValueError: If the convolution pads otherwise.
        """
        if isinstance(convolution.padding, str) or convolution.padding_mode != "zeros":
            raise ValueError(
                f"the convolution has padding {convolution.padding!r} of mode "
                f"{convolution.padding_mode!r}: deformable convolutions pad with zeros; give the "
                'number of zeros as the padding, and padding_mode "zeros".'
            )
        super().__init__(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,  # type: ignore[arg-type]
            convolution.stride,  # type: ignore[arg-type]
            convolution.padding,  # type: ignore[arg-type]
            convolution.dilation,  # type: ignore[arg-type]
            convolution.groups,
            bias=False,
            device="meta",
        )
        self.weight, self.bias = convolution.weight, convolution.bias
        self.modulated = modulated
        num_samples = self.kernel_size[0] * self.kernel_size[1]
        self.sampling_offsets = nn.Conv2d(
            self.in_channels,
            (3 if modulated else 2) * num_samples,
            self.kernel_size,  # type: ignore[arg-type]
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.dilation,  # type: ignore[arg-type]
            device=self.weight.device,
            dtype=self.weight.dtype,
        )
        nn.init.zeros_(self.sampling_offsets.weight)
        assert self.sampling_offsets.bias is not None
        nn.init.zeros_(self.sampling_offsets.bias)

    def forward(self, input: Float[Tensor, "B _ _ _"]) -> Float[Tensor, "B _ _ _"]:
        """What the plain convolution gives, sampled at moved places; in the input's dtype.

        Outside the input there are zeros.
        """
        # Samples are placed and weighed in float32 at least: bfloat16 would round pixels.
        dtype = torch.promote_types(input.dtype, torch.float32)
        sampling = self.sampling_offsets(input).to(dtype)
        num_samples = self.kernel_size[0] * self.kernel_size[1]
        offsets, logits = sampling.split([2 * num_samples, sampling.shape[1] - 2 * num_samples], 1)
        output = deform_conv2d(
            input.to(dtype),
            offsets,
            self.weight.to(dtype),
            None if self.bias is None else self.bias.to(dtype),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            mask=2 * logits.sigmoid() if self.modulated else None,
        )
        return output.to(input.dtype)


def replace_convolutions(
    body: nn.Module, stages: Sequence[str], modulated: bool = True
) -> list[str]:
    """Make the 3x3 convolutions of some stages deformable, in place.

    Args:
        body: The network that holds the stages.
        stages: Names of modules of `body`, as `named_modules` gives them.
        modulated: See `DeformableConv2d`.

    Returns:
        The names of the replaced convolutions.

    Raises:
        ValueError: If `body` has no module of such a name, or one has no 3x3 convolution.
    """
    modules = dict(body.named_modules())
    replaced = []
    for stage in stages:
        if stage not in modules:
            raise ValueError(
                f'the network has no module "{stage}": expected one of '
                f"{', '.join(name for name in modules if name and '.' not in name)}, or a part of "
                "one, such as layer3.0."
            )
        # Subclasses, such as those that pad to the input's size, calculate otherwise.
        names = [
            name
            for name, module in modules.items()
            if (name == stage or name.startswith(f"{stage}."))
            and type(module) is nn.Conv2d
            and module.kernel_size == (3, 3)
        ]
        if not names:
            raise ValueError(
                f'the stage "{stage}" has no 3x3 convolution to make deformable: choose other '
                "stages or another backbone, such as a ResNet."
            )
        for name in names:
            parent, _, child = name.rpartition(".")
            convolution = modules[name]
            assert isinstance(convolution, nn.Conv2d)
            setattr(modules[parent], child, DeformableConv2d(convolution, modulated))
        replaced += names
    return replaced
