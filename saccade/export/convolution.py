"""Deformable convolution out of GridSample and a matrix product: few runtimes know DeformConv."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def convolution_by_grid_sample(
    input: Float[Tensor, "B C H W"],
    weight: Float[Tensor, "O I kH kW"],
    offset: Float[Tensor, "B 2*G*kH*kW oH oW"],
    mask: Float[Tensor, "B G*kH*kW oH oW"],
    bias: Float[Tensor, " O"],
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    offset_groups: int,
    use_mask: bool,
) -> Float[Tensor, "B O oH oW"]:
    """What ``torch.ops.torchvision.deform_conv2d`` calculates, for one group of offsets.

    Raises:
        ValueError: If channels have offsets of their own in several groups.
    """
    if offset_groups != 1:
        raise ValueError(
            f"a deformable convolution has {offset_groups} groups of offsets: only those with one "
            "can be exported."
        )
    num_images, _, height, width = input.shape
    rows, columns = offset.shape[-2:]
    kernel_h, kernel_w = weight.shape[-2:]
    top = torch.arange(rows, device=input.device, dtype=input.dtype)[:, None] * stride_h - pad_h
    left = torch.arange(columns, device=input.device, dtype=input.dtype) * stride_w - pad_w
    samples = []
    for number in range(kernel_h * kernel_w):
        row, column = divmod(number, kernel_w)
        y = offset[:, 2 * number] + top + row * dilation_h
        x = offset[:, 2 * number + 1] + left + column * dilation_w
        # Pixel i has its centre at (2 i + 1) / size - 1.
        grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
        sampled = F.grid_sample(input, grid, "bilinear", "zeros", align_corners=False)
        samples.append(sampled * mask[:, number, None] if use_mask else sampled)
    # A 1x1 convolution over all samples of all channels is the sum of the kernel.
    stacked = torch.stack(samples, 2).view(num_images, -1, rows, columns)
    flat = weight.reshape(weight.shape[0], -1, 1, 1)
    return F.conv2d(stacked, flat, bias, groups=groups)
