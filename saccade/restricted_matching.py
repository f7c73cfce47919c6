"""Which selected token may answer for which object (TSP, sections 4.1 and 4.2)."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision.ops import box_iou

from saccade.boxes import centre_to_corners
from saccade.structures import Origins, Targets

LEAST_OVERLAP = 0.5
"""A proposal answers for objects of a larger IoU."""


def may_answer(origins: Origins, targets: Sequence[Targets]) -> list[Bool[Tensor, "S _"]]:
    """The pairs that may be matched, image by image: tokens by objects.

    A point may answer for the boxes that contain it and belong to its level, which are those
    whose farthest edge is within its reach (FCOS, section 3.2); a proposal for the boxes that it
    overlaps by more than half. Two boxes without area overlap by nothing.

    Args:
        origins: Where the tokens come from.
        targets: One per image, on the device of `origins`.
    """
    rule = overlaps if origins.reach is None else contains
    return [
        rule(_of_image(origins, image), target.fractions.to(origins.boxes.dtype))
        for image, target in enumerate(targets)
    ]


def overlaps(origins: Origins, objects: Float[Tensor, "N 4"]) -> Bool[Tensor, "S N"]:
    """Whether the IoU is above one half; `origins` of one image, boxes in fraction of image."""
    proposals = centre_to_corners(origins.boxes[0])
    overlap: Tensor = box_iou(proposals, centre_to_corners(objects))
    return overlap > LEAST_OVERLAP  # False where it is 0/0


def contains(origins: Origins, objects: Float[Tensor, "N 4"]) -> Bool[Tensor, "S N"]:
    """Whether an object contains a point and is of its level; `origins` of one image."""
    assert origins.reach is not None
    points, sides = origins.boxes[0, :, None].chunk(2, -1)
    first, second = centre_to_corners(objects).chunk(2, -1)
    distances = torch.cat([(points - first) / sides, (second - points) / sides], -1)
    farthest = distances.amax(-1)
    least, greatest = origins.reach[0, :, None].unbind(-1)
    return (distances.amin(-1) > 0) & (farthest > least) & (farthest <= greatest)


def _of_image(origins: Origins, image: int) -> Origins:
    reach = None if origins.reach is None else origins.reach[image, None]
    return Origins(origins.boxes[image, None], reach)
