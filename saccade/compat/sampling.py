"""The operator as other people's code calls it: in the precision that code chose."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ..ops import ms_deform_attn


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """A context in which our operator casts nothing.

    Autocast knows nothing of what our operator replaces: the compiled extension takes its
    arguments as they are. Or keeps it in float32: grid_sample.
    """
    available = torch.amp.is_autocast_available(device.type)
    if available and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def sample(
    value: Tensor,
    value_spatial_shapes: Sequence[tuple[int, int]] | Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """``ms_deform_attn``, the same under autocast as outside of it."""
    with without_autocast(value.device):
        return ms_deform_attn(value, value_spatial_shapes, sampling_locations, attention_weights)
