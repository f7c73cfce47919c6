"""From what a head says to a box (Deformable DETR, sections 4.1 and 4.2)."""

import torch
from jaxtyping import Float
from torch import Tensor

from saccade.boxes import logit


def refine_boxes(
    delta: Float[Tensor, "B Q 4"], references: Float[Tensor, "B Q _"] | None
) -> Float[Tensor, "B Q 4"]:
    """``sigmoid(delta + logit(reference))``, in float32 at least.

    Args:
        delta: The head's output: corrections of cx, cy, w, h before the sigmoid.
        references: A box to correct, a point that gives cx and cy only, or None (DETR).

    Returns:
        ``cx, cy, w, h``, fraction of image.

    >>> refine_boxes(torch.zeros(1, 1, 4), torch.tensor([[[0.5, 0.5]]])).tolist()
    [[[0.5, 0.5, 0.5, 0.5]]]
    """
    delta = delta.float() if delta.dtype.itemsize < 4 else delta
    if references is None:
        return delta.sigmoid()
    known = references.shape[-1]
    moved = delta[..., :known] + logit(references)
    return torch.cat([moved, delta[..., known:]], -1).sigmoid()
