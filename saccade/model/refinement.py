"""From what a head says to a box (Deformable DETR, sections 4.1 and 4.2; Faster R-CNN)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from saccade.boxes import logit

# torchvision's: a side of 16 pixels can become one of 1000.
_LARGEST = math.log(1000 / 16)


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


def move_boxes(
    delta: Float[Tensor, "B Q 4"], origins: Float[Tensor, "B Q 4"]
) -> Float[Tensor, "B Q 4"]:
    """Boxes moved by fractions of their sides and stretched by exponentials, in float32 at least.

    As in Faster R-CNN (section 3.1.2), whose small boxes need no finer answer than large ones, and
    whose boxes as large as the image can still shrink: the logit of a side of 1 has no gradient.

    Args:
        delta: The head's output.
        origins: Boxes, ``cx, cy, w, h``, fraction of image.

    Returns:
        ``cx, cy, w, h``, fraction of image.

    >>> origins = torch.tensor([[[0.5, 0.5, 0.2, 0.4]]])
    >>> move_boxes(torch.tensor([[[0.5, -0.5, 0.0, 0.0]]]), origins).tolist()
    [[[0.6000000238418579, 0.30000001192092896, 0.20000000298023224, 0.4000000059604645]]]
    """
    delta = delta.float() if delta.dtype.itemsize < 4 else delta
    centres, sides = origins.chunk(2, -1)
    moves, stretches = delta.chunk(2, -1)
    return torch.cat([centres + moves * sides, sides * stretches.clamp(max=_LARGEST).exp()], -1)
