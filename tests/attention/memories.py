"""Random memories of one level, and attention made random everywhere."""

from dataclasses import replace

import torch
from torch import nn

from saccade.structures import Tokens

WIDTH = 8


def memory_of(
    size: tuple[int, int],
    valid: list[tuple[int, int]],
    width: int = WIDTH,
    dtype: torch.dtype = torch.float32,
) -> Tokens:
    """Random tokens of images that fill these (height, width) of a level of `size`."""
    generator = torch.Generator().manual_seed(3)
    height, columns = size
    features = torch.randn(2, len(valid), height * columns, width, generator=generator)
    mask = torch.ones(len(valid), height, columns, dtype=torch.bool)
    for image, (rows, used) in enumerate(valid):
        mask[image, :rows, :used] = False
    return Tokens(
        features=features[0].to(dtype),
        positions=features[1].to(dtype),
        mask=mask.flatten(1) if mask.any() else None,
        spatial_shapes=(size,),
        valid_ratios=torch.tensor([[[w / columns, h / height]] for h, w in valid]),
    )


def part_of(memory: Tokens, image: int, valid: tuple[int, int]) -> Tokens:
    """One image of a batch without its padding."""
    (height, width) = memory.spatial_shapes[0]
    rows, columns = valid

    def cut(tokens: torch.Tensor) -> torch.Tensor:
        grid = tokens[[image]].unflatten(1, (height, width))
        return grid[:, :rows, :columns].flatten(1, 2)

    return Tokens(
        features=cut(memory.features),
        positions=cut(memory.positions),
        mask=None,
        spatial_shapes=(valid,),
        valid_ratios=torch.ones(1, 1, 2),
    )


def repeated(memory: Tokens) -> Tokens:
    """One image as a batch of two."""
    return replace(
        memory,
        features=memory.features.repeat(2, 1, 1),
        positions=memory.positions.repeat(2, 1, 1),
        valid_ratios=memory.valid_ratios.repeat(2, 1, 1),
    )


def attend(attention: nn.Module, memory: Tokens) -> torch.Tensor:
    """As an encoder layer calls it."""
    attended: torch.Tensor = attention(memory.features + memory.positions, None, memory)
    return attended


def randomised(attention: nn.Module) -> nn.Module:
    """The same module, no parameter zero, so that no term or bias is hidden."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return attention.eval()
