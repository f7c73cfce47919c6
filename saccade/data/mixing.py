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
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as tv

from saccade.recipe_config import AugmentationConfig
from saccade.structures import Sample, Targets

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
    if torch.rand(()).item() < augmentation.mosaic:
        sample = mosaic(sample, [other() for _ in range(3)])
    if torch.rand(()).item() < augmentation.copy_paste:
        sample = copy_paste(sample, other())
    return sample


def mosaic(sample: Sample, others: list[Sample]) -> Sample:
    """Four images in the corners of a frame as large as the first, meeting at a random point.

    Each is resized, its aspect kept, to between half and all of the frame and cut, at random, to
    its corner (YOLOv4, section 3.3). An object of which little remains is left out.
    """
    height, width = sample.targets.size
    y, x = (_between(-(-side // 4), side - side // 4) for side in (height, width))
    corners = [(0, 0, y, x), (0, x, y, width), (y, 0, height, x), (y, x, height, width)]
    image = torch.empty(3, height, width, dtype=sample.image.dtype)
    parts = []
    for (top, left, bottom, right), each in zip(corners, [sample, *others], strict=True):
        part = _cut_to(each, (bottom - top, right - left), (height, width))
        image[:, top:bottom, left:right] = part.image
        shift = torch.tensor([left, top, left, top])
        parts.append(replace(part.targets, boxes=part.targets.boxes + shift))
    return replace(sample, image=image, targets=_join(parts, sample.targets))


def copy_paste(sample: Sample, other: Sample) -> Sample:
    """Half of another image's objects, as rectangles, over the image, where they were there.

    Copy-paste (Ghiasi et al., section 3) for datasets without masks: an object that is then covered
    for the most part is left out.
    """
    size = sample.targets.size
    other = _resize(other, size)
    chosen = torch.rand(len(other.targets.labels)) < 0.5
    boxes, labels = other.targets.boxes[chosen], other.targets.labels[chosen]
    image, covered = sample.image.clone(), torch.zeros(size)
    for left, top, right, bottom in _whole_pixels(boxes, size):
        image[:, top:bottom, left:right] = other.image[:, top:bottom, left:right]
        covered[top:bottom, left:right] = 1
    seen = [
        covered[top:bottom, left:right].mean().item() <= _LOST
        for left, top, right, bottom in _whole_pixels(sample.targets.boxes, size)
    ]
    kept = torch.tensor(seen, dtype=torch.bool)
    targets = replace(
        sample.targets,
        boxes=torch.cat([sample.targets.boxes[kept], boxes]),
        labels=torch.cat([sample.targets.labels[kept], labels]),
    )
    return replace(sample, image=image, targets=targets)


def _cut_to(sample: Sample, size: tuple[int, int], frame: tuple[int, int]) -> Sample:
    """The sample as large as half to all of `frame`, but so that it covers `size`, cut to that."""
    height, width = sample.targets.size
    whole = min(frame[0] / height, frame[1] / width)
    least = max(0.5 * whole, size[0] / height, size[1] / width)
    factor = least + max(0.0, whole - least) * torch.rand(()).item()
    resized_to = (max(size[0], round(height * factor)), max(size[1], round(width * factor)))
    resized = _resize(sample, resized_to)
    top = _between(0, resized.targets.size[0] - size[0])
    left = _between(0, resized.targets.size[1] - size[1])
    image = resized.image[:, top : top + size[0], left : left + size[1]]
    boxes = resized.targets.boxes - torch.tensor([left, top, left, top])
    limits = torch.tensor([size[1], size[0], size[1], size[0]])
    cut = boxes.clamp(min=0).minimum(limits)
    kept = _areas(cut) > (1 - _LOST) * _areas(boxes)
    targets = replace(
        resized.targets, boxes=cut[kept], labels=resized.targets.labels[kept], size=size
    )
    return replace(resized, image=image, targets=targets)


def _resize(sample: Sample, size: tuple[int, int]) -> Sample:
    if sample.targets.size == size:
        return sample
    boxes = tv_tensors.BoundingBoxes(
        sample.targets.boxes, format="XYXY", canvas_size=sample.targets.size
    )
    image: Tensor = tv.resize(sample.image, list(size), antialias=True)
    moved: Tensor = tv.resize(boxes, list(size)).as_subclass(Tensor)
    return replace(sample, image=image, targets=replace(sample.targets, boxes=moved, size=size))


def _join(parts: list[Targets], like: Targets) -> Targets:
    boxes = torch.cat([part.boxes for part in parts])
    return replace(like, boxes=boxes, labels=torch.cat([part.labels for part in parts]))


def _areas(boxes: Float[Tensor, "N 4"]) -> Float[Tensor, " N"]:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)


def _whole_pixels(boxes: Float[Tensor, "N 4"], size: tuple[int, int]) -> list[list[int]]:
    """The pixels boxes touch, at least one: left, top, and right and bottom behind the last."""
    height, width = size
    first = boxes[:, :2].floor().minimum(torch.tensor([width - 1, height - 1]))
    last = boxes[:, 2:].ceil().maximum(first + 1).minimum(torch.tensor([width, height]))
    rows: list[list[int]] = torch.cat([first, last], 1).int().tolist()
    return rows


def _between(least: int, most: int) -> int:
    """Drawn from [least, most], both included."""
    return int(torch.randint(least, most + 1, ()))
