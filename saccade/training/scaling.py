"""Small gradients vanish in float16 unless the loss is multiplied (Micikevicius et al. 2018)."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

LEAST_SCALE = 1.0
"""Gradients that overflow although the loss is not multiplied are not the scale's fault."""


class LossScaler:
    """Multiplies the loss by a scale that halves after an overflow and doubles in quiet times."""

    def __init__(self, device_type: str, enabled: bool) -> None:
        """Begin with torch's scale.

        Args:
            device_type: Where the gradients are.
            enabled: If not, all of this does nothing, and nothing ever overflows.
        """
        self._scaler = torch.amp.GradScaler(device_type, enabled=enabled)
        self._enabled = enabled

    @property
    def factor(self) -> float:
        """What the loss is multiplied by; asking waits for the device."""
        return self._scaler.get_scale()

    def scale(self, total: Tensor) -> Tensor:
        """The loss to go backward from."""
        return self._scaler.scale(total)

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide complete gradients by the scale, once for each step."""
        self._scaler.unscale_(optimizer)

    def overflowed(self) -> bool:
        """Whether the scale was too large for the gradients of this step; it is smaller then.

        The caller takes no step, and need not worry: this is how the scale is found.
        """
        before = self.factor
        self._scaler.update()
        return LEAST_SCALE <= self.factor < before

    def stepped(self) -> None:
        """Note a step, after a row of which the scale grows."""
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` goes on from; empty if not enabled."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Go on from a state, or begin if there is none."""
        if self._enabled and state:
            self._scaler.load_state_dict(state)
