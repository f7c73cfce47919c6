"""Box formats and the coordinate frames they live in.

Three frames occur, and every signature that carries boxes names its own:

- *pixels*: ``x0, y0, x1, y1`` of the image, the origin at the top left corner of its first pixel;
- *fraction of image*: ``cx, cy, w, h`` divided by the width and height of the image alone;
- *fraction of padded map*: the same, divided by the extents of the padded batch or feature map.
  An image that fills a share ``r`` of the padded map (its *valid ratio*, in x and in y) takes
  a fraction ``f`` of the image to ``f * r``.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def pixels_to_fractions(
    boxes: Float[Tensor, "*N 4"], size: tuple[int, int]
) -> Float[Tensor, "*N 4"]:
    """``x0, y0, x1, y1`` in pixels to ``cx, cy, w, h``, fraction of image.

    Args:
        boxes: Corners in pixels.
        size: (height, width) of the image in pixels.

    >>> pixels_to_fractions(torch.tensor([0.0, 0.0, 2.0, 4.0]), (8, 4)).tolist()
    [0.25, 0.25, 0.5, 0.5]
    """
    height, width = size
    return corners_to_centre(boxes) / boxes.new_tensor([width, height, width, height])


def fractions_to_pixels(
    boxes: Float[Tensor, "*N 4"], size: tuple[int, int]
) -> Float[Tensor, "*N 4"]:
    """``cx, cy, w, h``, fraction of image, to ``x0, y0, x1, y1`` in pixels of an image of `size`.

    >>> fractions_to_pixels(torch.tensor([0.25, 0.25, 0.5, 0.5]), (8, 4)).tolist()
    [0.0, 0.0, 2.0, 4.0]
    """
    height, width = size
    return centre_to_corners(boxes) * boxes.new_tensor([width, height, width, height])


def centre_to_corners(boxes: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 4"]:
    """``cx, cy, w, h`` to ``x0, y0, x1, y1`` in the same frame."""
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], -1)


def corners_to_centre(boxes: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 4"]:
    """``x0, y0, x1, y1`` to ``cx, cy, w, h`` in the same frame."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], -1)


def paired_iou(boxes: Float[Tensor, "*N 4"], others: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N"]:
    """How much each box overlaps the other box of its pair: 0 to 1, and 0 if both lack area.

    Args:
        boxes: ``x0, y0, x1, y1`` in any frame.
        others: As many, in the same frame.

    >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    >>> paired_iou(boxes, torch.tensor([[1.0, 0.0, 3.0, 2.0]])).tolist()
    [0.3333333432674408]
    """
    sides = torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(
        boxes[..., :2], others[..., :2]
    )
    shared = sides.clamp(min=0).prod(-1)
    areas = [(each[..., 2:] - each[..., :2]).clamp(min=0).prod(-1) for each in (boxes, others)]
    either = areas[0] + areas[1] - shared
    return torch.where(either > 0, shared / either, 0.0)


def logit(fractions: Float[Tensor, "*N"], eps: float = 1e-5) -> Float[Tensor, "*N"]:
    """The inverse of the sigmoid, with both of its sides kept above `eps` as officially done.

    >>> logit(torch.tensor([0.5, 1.0])).tolist()
    [0.0, 11.512925148010254]
    """
    clamped = fractions.clamp(0, 1)
    return torch.log(clamped.clamp(min=eps) / (1 - clamped).clamp(min=eps))
