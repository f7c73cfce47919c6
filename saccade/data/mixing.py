"""Training images made of several: mosaic and copy-paste of boxes.

Both take samples as stored, uint8 images and boxes in pixels, before `training_transform`.
Randomness comes from torch's global CPU generator.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from saccade.data.chance import draw_integer, happens
from saccade.recipe_config import AugmentationConfig
from saccade.structures import Sample

Other = Callable[[], Sample]
"""Reads another image of the dataset, drawn at random."""
Mix = Callable[[Sample, Other], Sample]

# An object that is covered or cut away by more than this share is not annotated any more.
_LOST = 0.7


def training_mix(augmentation: AugmentationConfig) -> Mix | None:
    """What `augmentation` makes of a sample and of others; it can be pickled. None for nothing."""
    if not augmentation.mosaic and not augmentation.copy_paste:
        return None
    return partial(_mix, augmentation=augmentation)


def _mix(sample: Sample, other: Other, augmentation: AugmentationConfig) -> Sample:
    if happens(augmentation.mosaic):
        sample = mosaic(sample, [other() for _ in range(3)])
    if happens(augmentation.copy_paste):
        sample = copy_paste(sample, other())
    return sample


def mosaic(sample: Sample, others: list[Sample]) -> Sample:
    """Four images in the corners of a frame as large as the first, meeting at a random point.

    Of each, a random part is resized to its corner, its aspect kept, so that the whole would cover
    between half and all of the frame (YOLOv4, section 3.3). An object of which little remains is
    left out. An image of a few pixels stays as it is.
    """
    height, width = sample.targets.size
    if min(height, width) < 4:
        return sample
    y, x = (draw_integer(-(-side // 4), side - side // 4) for side in (height, width))
    corners = [(0, 0, y, x), (0, x, y, width), (y, 0, height, x), (y, x, height, width)]
    image = torch.empty(3, height, width, dtype=sample.image.dtype)
    parts = []
    for (top, left, bottom, right), each in zip(corners, [sample, *others], strict=True):
        part = _fill(each, (bottom - top, right - left), (height, width))
        image[:, top:bottom, left:right] = part.image
        shift = torch.tensor([left, top, left, top])
        parts.append(replace(part.targets, boxes=part.targets.boxes + shift))
    boxes = torch.cat([part.boxes for part in parts])
    labels = torch.cat([part.labels for part in parts])
    return replace(sample, image=image, targets=replace(sample.targets, boxes=boxes, labels=labels))


def copy_paste(sample: Sample, other: Sample) -> Sample:
    """Half of another image's objects, as rectangles, over the image, where they were there.

    Copy-paste (Ghiasi et al., section 3) for datasets without masks: other objects that come with
    the rectangles come with their boxes, and what they cover for the most part is left out.
    """
    size = sample.targets.size
    other = _resize(other, size)
    chosen = torch.rand(len(other.targets.labels)) < 0.5
    image, pasted = sample.image.clone(), torch.zeros(size)
    for left, top, right, bottom in _whole_pixels(other.targets.boxes[chosen], size):
        image[:, top:bottom, left:right] = other.image[:, top:bottom, left:right]
        pasted[top:bottom, left:right] = 1
    come = chosen | (_shares(other.targets.boxes, pasted) > 1 - _LOST)
    stay = _shares(sample.targets.boxes, pasted) <= _LOST
    targets = replace(
        sample.targets,
        boxes=torch.cat([sample.targets.boxes[stay], other.targets.boxes[come]]),
        labels=torch.cat([sample.targets.labels[stay], other.targets.labels[come]]),
    )
    return replace(sample, image=image, targets=targets)


def _fill(sample: Sample, size: tuple[int, int], frame: tuple[int, int]) -> Sample:
    """A random part of the sample, resized to `size`; the whole would fit into `frame`."""
    height, width = sample.targets.size
    whole = min(frame[0] / height, frame[1] / width)
    least = max(0.5 * whole, size[0] / height, size[1] / width)
    factor = least + max(0.0, whole - least) * torch.rand(()).item()
    # Cut before it is resized: a long image that fills a large corner would be huge.
    cut = [
        min(side, max(1, round(to / factor)))
        for side, to in zip((height, width), size, strict=True)
    ]
    top, left = draw_integer(0, height - cut[0]), draw_integer(0, width - cut[1])
    part = sample.image[:, top : top + cut[0], left : left + cut[1]]
    image: Tensor = tv.resize(part, list(size), antialias=True)
    scale = torch.tensor([size[1] / cut[1], size[0] / cut[0]]).repeat(2)
    boxes = (sample.targets.boxes - torch.tensor([left, top, left, top])) * scale
    seen = boxes.clamp(min=0).minimum(torch.tensor([size[1], size[0]]).repeat(2))
    kept = _areas(seen) > (1 - _LOST) * _areas(boxes)
    targets = replace(
        sample.targets, boxes=seen[kept], labels=sample.targets.labels[kept], size=size
    )
    return replace(sample, image=image, targets=targets)


def _resize(sample: Sample, size: tuple[int, int]) -> Sample:
    if sample.targets.size == size:
        return sample
    height, width = sample.targets.size
    image: Tensor = tv.resize(sample.image, list(size), antialias=True)
    boxes = sample.targets.boxes * torch.tensor([size[1] / width, size[0] / height]).repeat(2)
    return replace(sample, image=image, targets=replace(sample.targets, boxes=boxes, size=size))


def _areas(boxes: Float[Tensor, "N 4"]) -> Float[Tensor, " N"]:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)


def _shares(boxes: Float[Tensor, "N 4"], pixels: Float[Tensor, "H W"]) -> Float[Tensor, " N"]:
    """Of the pixels that each box touches, how many are 1."""
    size = (pixels.shape[0], pixels.shape[1])
    return torch.tensor(
        [
            pixels[top:bottom, left:right].mean().item()
            for left, top, right, bottom in _whole_pixels(boxes, size)
        ]
    )


def _whole_pixels(boxes: Float[Tensor, "N 4"], size: tuple[int, int]) -> list[list[int]]:
    """The pixels boxes touch, at least one: left, top, and right and bottom behind the last."""
    height, width = size
    first = boxes[:, :2].floor().minimum(torch.tensor([width - 1, height - 1]))
    last = boxes[:, 2:].ceil().maximum(first + 1).minimum(torch.tensor([width, height]))
    rows: list[list[int]] = torch.cat([first, last], 1).int().tolist()
    return rows
