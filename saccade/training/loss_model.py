"""The detector and its losses as one module, in the precision that was asked for."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from saccade.run_config import Precision
from saccade.structures import Batch, Predictions, Targets
from saccade.training.losses import SetCriterion
from saccade.training.step_images import StepImages

Distil = Callable[[Predictions, Batch, Sequence[Targets]], Predictions]
"""What a teacher makes of a student's predictions, such as `TeacherMatching.distil`."""

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class LossModel(nn.Module):
    """The detector and its criterion as one module, so that Fabric sees tensors come out."""

    def __init__(
        self,
        model: nn.Module,
        criterion: SetCriterion,
        precision: Precision = "32",
        distil: Distil | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion
        self.precision = precision
        # A function, so that no teacher's weights become this module's.
        self.distil = distil

    def forward(
        self, batch: Batch, targets: list[Targets], images: StepImages | None = None
    ) -> dict[str, Tensor]:
        """The unweighted losses of a batch, divided by what `images` of its step says."""
        dtype = _AUTOCAST.get(self.precision)
        with torch.autocast(batch.images.device.type, dtype, enabled=dtype is not None):
            predictions = self.model(batch, targets)
            if self.distil is not None:
                predictions = self.distil(predictions, batch, targets)
        losses: dict[str, Tensor] = self.criterion(predictions, targets, images)
        return losses
