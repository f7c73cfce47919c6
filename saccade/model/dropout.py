"""Dropout (Srivastava et al., 2014) that is cheap on a CPU and remembers little.

PyTorch draws a float for every element on a CPU and keeps it for the backward pass. Here four
elements share a random number of 64 bits, and one byte of each is kept, or nothing at all behind a
relu, whose zeros tell what was dropped. Probabilities are multiples of 1 / 65536.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_STEPS = 1 << 16


class Dropout(nn.Module):
    """Zeros elements with a probability while training, and scales up the others to make up."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def extra_repr(self) -> str:
        """What printing the module tells."""
        return f"{self.probability:g}"

    def forward(self, features: Tensor) -> Tensor:
        """The features, some of them zero while training."""
        if not self.training or self.probability == 0:
            return features
        if features.device.type != "cpu":
            return F.dropout(features, self.probability)
        return _Drop.apply(features, self.probability)

    def after_relu(self, features: Tensor) -> Tensor:
        """``forward(relu(features))``, remembering its result alone."""
        if not self.training or self.probability == 0:
            return features.relu()
        return _DropRelu.apply(features, self.probability)


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, probability: float) -> Tensor:
        dropped, ctx.scale = _draw(features, probability)
        ctx.save_for_backward(dropped)
        return (features * ctx.scale).masked_fill_(dropped, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (dropped,) = ctx.saved_tensors
        return (grad * ctx.scale).masked_fill_(dropped, 0), None


class _DropRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, probability: float) -> Tensor:
        if features.device.type == "cpu":
            dropped, ctx.scale = _draw(features, probability)
            outputs = features.relu().masked_fill_(dropped, 0).mul_(ctx.scale)
        else:
            ctx.scale = 1 / (1 - probability) if probability < 1 else 0.0
            outputs = F.dropout(features.relu(), probability)
        ctx.save_for_backward(outputs)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (outputs,) = ctx.saved_tensors
        passed: Tensor = torch.ops.aten.threshold_backward(grad, outputs, 0)
        return passed.mul_(ctx.scale), None


def _draw(features: Tensor, probability: float) -> tuple[Tensor, float]:
    """Which elements are dropped, and what the others are to be multiplied by."""
    share = round(probability * _STEPS)
    draws = torch.empty(-(-features.numel() // 4), dtype=torch.int64, device=features.device)
    bits = draws.random_(-(1 << 63), None).view(torch.int16)[: features.numel()]
    scale = _STEPS / (_STEPS - share) if share < _STEPS else 0.0
    # Numbers from -32768 to 32767; all are below the bound that no int16 holds.
    return bits.view(features.shape) < share - _STEPS // 2, scale
