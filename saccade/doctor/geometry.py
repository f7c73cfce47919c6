"""What a run makes of the sizes of images: how they are resized, and into how many tokens."""

from dataclasses import dataclass

import numpy as np

from saccade.config import DetectorConfig
from saccade.doctor.tables import Floats, Integers
from saccade.recipe_config import AugmentationConfig
from saccade.run_config import RunConfig


@dataclass(frozen=True)
class Sides:
    """To what images are resized, in pixels."""

    short: int
    longest: int


def evaluation_sides(config: DetectorConfig) -> Sides:
    """Those of evaluation and prediction."""
    return Sides(config.input.short_side, config.input.max_side)


def training_sides(config: RunConfig) -> tuple[Sides, Sides]:
    """The usual ones of training, and the largest."""
    shorts = sorted(config.augmentation.short_sides)
    longest = config.augmentation.max_side
    return Sides(shorts[len(shorts) // 2], longest), Sides(shorts[-1], longest)


def cropped(sizes: Integers, augmentation: AugmentationConfig) -> list[Integers]:
    """The crops of extreme shape that training may cut of each image, [I, 2] each.

    Resized to one short side after that, either the squarest or the longest ones are the smallest.

    Args:
        sizes: [I, 2]: (height, width) in pixels.
        augmentation: Of the run.
    """
    least, most = augmentation.crop_sides
    found = []
    for side in augmentation.crop_short_sides:
        whole = np.rint(sizes * (side / sizes.min(1))[:, None]).astype(np.int64)
        low, high = np.minimum(whole, least), np.minimum(whole, most)
        # The lower ends differ where one side of the image is shorter than the least of a crop.
        squarest = np.clip(low.max(1, keepdims=True), low, high)
        wide = np.stack([low[:, 0], high[:, 1]], 1)
        tall = np.stack([high[:, 0], low[:, 1]], 1)
        found += [squarest, wide, tall]
    return found


def scales(sizes: Integers, sides: Sides) -> Floats:
    """[I]: by how much each image is enlarged, or shrunk below 1.

    Args:
        sizes: [I, 2]: (height, width) in pixels.
        sides: To what they are resized.
    """
    shorter, longer = sizes.min(1), sizes.max(1)
    return np.minimum(sides.short / shorter, sides.longest / longer)


def resized(sizes: Integers, sides: Sides) -> Integers:
    """[I, 2]: (height, width) after resizing."""
    return np.rint(sizes * scales(sizes, sides)[:, None]).astype(np.int64).clip(min=1)


def strides(config: DetectorConfig) -> tuple[int, ...]:
    """Pixels from one token to the next in each level, the finest first."""
    found = [2**level for level in config.backbone.levels]
    if config.backbone.dilated:
        found[-1] //= 2
    for _ in range(config.neck.num_extra_levels):
        found.append(2 * found[-1])
    return tuple(found)


def num_tokens(sizes: Integers, config: DetectorConfig) -> Integers:
    """[I]: tokens of all levels of each image alone.

    Args:
        sizes: [I, 2]: (height, width) in pixels, resized.
        config: The detector.
    """
    each = [(-(-sizes // stride)).prod(1) for stride in strides(config)]
    return np.sum(each, axis=0)


def capacity(config: DetectorConfig, size: tuple[int, int]) -> int:
    """How many objects the detector can find on an image at most.

    Args:
        config: The detector.
        size: (height, width) of a resized image in pixels; where every token predicts, it decides.
    """
    if config.selection.kind != "none":
        return config.selection.num_tokens
    if config.queries.source == "tokens":
        return int(num_tokens(np.array([size], np.int64), config)[0])
    return config.queries.num_queries


def padding(sizes: Integers, batch_size: int, num_batches: int = 500) -> float:
    """The share of a batch that is padding, over batches drawn at random.

    Args:
        sizes: [I, 2]: (height, width) in pixels, resized.
        batch_size: Images of a batch.
        num_batches: How many are drawn, always the same.
    """
    random = np.random.default_rng(0)
    batches = sizes[random.integers(0, len(sizes), (num_batches, batch_size))]
    filled = batches.prod(-1).sum()
    return float(1 - filled / (batch_size * batches.max(1).prod(-1).sum()))


def typical_size(sizes: Integers) -> tuple[int, int]:
    """(height, width): the median of each."""
    height, width = np.median(sizes, axis=0).astype(int).tolist()
    return height, width
