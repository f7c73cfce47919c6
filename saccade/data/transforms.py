"""DETR's augmentation, which Deformable DETR keeps, and the plain resize of evaluation.

A transform takes a `Sample` with a uint8 image and returns one with a normalised float image;
boxes and ``targets.size`` follow the image. Randomness comes from torch's global CPU generator.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as tv

from saccade.config import InputConfig
from saccade.data.chance import choose, draw_integer, happens
from saccade.data.dataset import Transform
from saccade.recipe_config import AugmentationConfig
from saccade.structures import Sample


def training_transform(augmentation: AugmentationConfig, input_config: InputConfig) -> Transform:
    """The random transform of training; it can be pickled.

    Flips; then either a resize or, with probability ``augmentation.crop``, a resize, a random
    crop and another resize; then brightness and normalisation. The sides that `augmentation`
    lists replace those of `input_config`, of which only mean and std are used.
    """
    return partial(_augment, augmentation=augmentation, input_config=input_config)


def evaluation_transform(input_config: InputConfig) -> Transform:
    """The transform of evaluation, resize and normalisation; it can be pickled."""
    return partial(_prepare, input_config=input_config)


def prepare_image(
    image: UInt8[Tensor, "3 H W"], input_config: InputConfig
) -> Float[Tensor, "3 h w"]:
    """Resize and normalise one image, as evaluation does.

    Args:
        image: RGB, values in [0, 255].
        input_config: The detector's.
    """
    return normalise(resize_image(image, input_config), input_config)


def resize_image(
    image: UInt8[Tensor, "3 H W"], input_config: InputConfig
) -> UInt8[Tensor, "3 h w"]:
    """Resize one image to the sides that the detector wants, as evaluation does.

    Raises:
        ValueError: As `check_size` says.
    """
    size = (image.shape[1], image.shape[2])
    check_size(size, input_config)
    target = resized_size(size, input_config.short_side, input_config.max_side)
    resized: Tensor = tv.resize(image, list(target), antialias=True)
    return resized


def check_size(size: tuple[int, int], input_config: InputConfig) -> None:
    """Refuse images so narrow that they would stay enormous when they are resized.

    Args:
        size: (height, width) in pixels.
        input_config: The detector's.

    Raises:
        ValueError: For such as a row of millions of pixels.
    """
    height, width = resized_size(size, input_config.short_side, input_config.max_side)
    # Twice, since rounding may lengthen a side a little.
    if height * width > 2 * input_config.short_side * input_config.max_side:
        raise ValueError(
            f"the image is {size[1]} x {size[0]} pixels, too long and narrow for this detector: "
            "cut it into pieces."
        )


def resized_size(
    size: tuple[int, int], short_side: int, max_side: int | None = None
) -> tuple[int, int]:
    """The (height, width) of an image after the official resize, to the pixel.

    The shorter side becomes `short_side`, or less where the longer one would exceed `max_side`.

    >>> resized_size((480, 640), 800, 1333), resized_size((500, 1000), 800, 1333)
    ((800, 1066), (666, 1332))
    """
    shorter, longer = min(size), max(size)
    if max_side is not None and longer / shorter * short_side > max_side:
        short_side = max(1, round(max_side * shorter / longer))
    if short_side == shorter:
        return size
    long_side = int(short_side * longer / shorter)
    return (short_side, long_side) if size[0] <= size[1] else (long_side, short_side)


def _augment(sample: Sample, augmentation: AugmentationConfig, input_config: InputConfig) -> Sample:
    if happens(augmentation.horizontal_flip):
        sample = _apply(sample, tv.horizontal_flip)
    if happens(augmentation.vertical_flip):
        sample = _apply(sample, tv.vertical_flip)
    if happens(augmentation.crop):
        sample = _resize(sample, choose(augmentation.crop_short_sides))
        sample = _random_crop(sample, *augmentation.crop_sides)
    short_side = choose(augmentation.short_sides)
    frame = resized_size(sample.targets.size, short_side, augmentation.max_side)
    factor = math.exp(augmentation.zoom * (2 * torch.rand(()).item() - 1))
    sample = _resize_within(sample, frame, factor, input_config)
    if augmentation.brightness:
        gain = 1 + augmentation.brightness * (2 * torch.rand(()).item() - 1)
        sample = replace(sample, image=tv.adjust_brightness(sample.image, gain))
    return replace(sample, image=normalise(sample.image, input_config))


def _prepare(sample: Sample, input_config: InputConfig) -> Sample:
    sample = _resize(sample, input_config.short_side, input_config.max_side)
    return replace(sample, image=normalise(sample.image, input_config))


def _resize(sample: Sample, short_side: int, max_side: int | None = None) -> Sample:
    return _resize_to(sample, resized_size(sample.targets.size, short_side, max_side))


def _resize_to(sample: Sample, size: tuple[int, int]) -> Sample:
    return _apply(sample, partial(tv.resize, size=list(size), antialias=True))


def _random_crop(sample: Sample, least: int, most: int) -> Sample:
    """A crop with sides drawn from [least, most], as far as the image allows."""
    height, width = (
        draw_integer(min(least, side), min(side, most)) for side in sample.targets.size
    )
    top = draw_integer(0, sample.targets.size[0] - height)
    left = draw_integer(0, sample.targets.size[1] - width)
    return _apply(sample, partial(tv.crop, top=top, left=left, height=height, width=width))


def _resize_within(
    sample: Sample, frame: tuple[int, int], factor: float, input_config: InputConfig
) -> Sample:
    """Resize to `factor` times `frame`, then crop or pad at random to `frame`."""
    height, width = (max(1, round(side * factor)) for side in frame)
    sample = _resize_to(sample, (height, width))
    spare = [frame[0] - height, frame[1] - width]
    if not any(spare):
        return sample
    top, left = (draw_integer(min(0, each), max(0, each)) for each in spare)
    if factor > 1:
        crop = partial(tv.crop, top=-top, left=-left, height=frame[0], width=frame[1])
        return _apply(sample, crop)
    border = [left, top, spare[1] - left, spare[0] - top]
    mean = [round(255 * channel) for channel in input_config.mean]
    return _apply(sample, partial(tv.pad, padding=border, fill=mean))


def _apply(sample: Sample, function: Callable[[Any], Any]) -> Sample:
    """Apply a torchvision functional to image and boxes; boxes left without area are dropped."""
    targets = sample.targets
    image = function(sample.image)
    boxes: Tensor = function(
        tv_tensors.BoundingBoxes(targets.boxes, format="XYXY", canvas_size=targets.size)
    ).as_subclass(Tensor)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)
    size = (image.shape[1], image.shape[2])
    kept = replace(targets, boxes=boxes[has_area], labels=targets.labels[has_area], size=size)
    return replace(sample, image=image, targets=kept)


def normalise(
    image: UInt8[Tensor, "*B 3 H W"], input_config: InputConfig
) -> Float[Tensor, "*B 3 H W"]:
    """Values as the backbone wants them, from RGB values in [0, 255]."""
    unit = tv.to_dtype(image, torch.float32, scale=True)
    normalised: Tensor = tv.normalize(unit, list(input_config.mean), list(input_config.std))
    return normalised
