import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from saccade.config import InputConfig
from saccade.data import evaluation_transform, prepare_image, training_transform
from saccade.data.transforms import resize_image, resized_size
from saccade.recipe_config import AugmentationConfig
from saccade.structures import Sample, Targets

PLAIN = InputConfig(short_side=32, max_side=64, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
STILL = AugmentationConfig(horizontal_flip=0.0, short_sides=(32,), max_side=64, crop=0.0)


def make_sample(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> Sample:
    """A black image with every box filled white."""
    image = torch.zeros(3, *size, dtype=torch.uint8)
    for x0, y0, x1, y1 in boxes:
        image[:, y0:y1, x0:x1] = 255
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Sample(image, Targets(corners, torch.arange(len(boxes)), size, image_id=5))


def white_box(image: Tensor) -> Tensor:
    """Corners of what is white, rather than black."""
    rows, columns = (image[0] > 0.5).nonzero().unbind(1)
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()


@pytest.mark.parametrize(
    ("size", "short_side", "max_side", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1066)),
        ((640, 480), 800, 1333, (1066, 800)),
        ((427, 640), 800, 1333, (800, 1199)),
        ((500, 1000), 800, 1333, (666, 1332)),
        ((1000, 333), 800, 1333, (1333, 444)),
        ((101, 1000), 800, 1333, (135, 1336)),
        ((500, 500), 400, None, (400, 400)),
        ((500, 5000), 400, None, (400, 4000)),
        ((800, 900), 800, 1333, (800, 900)),
        ((1, 5000), 800, 1333, (1, 5000)),
    ],
)
def test_sizes_are_the_official_ones(
    size: tuple[int, int], short_side: int, max_side: int | None, expected: tuple[int, int]
) -> None:
    assert resized_size(size, short_side, max_side) == expected


def test_an_image_that_would_stay_enormous_is_refused() -> None:
    limit = 2 * PLAIN.short_side * PLAIN.max_side
    longest = torch.zeros(3, 1, limit, dtype=torch.uint8)
    assert resize_image(longest, PLAIN).shape == longest.shape
    for image in (longest, longest.transpose(1, 2)):
        longer = torch.cat([image, image], 1 if image.shape[1] > 1 else 2)
        with pytest.raises(ValueError, match=r"pixels, too long and narrow for this detector: cut"):
            resize_image(longer, PLAIN)


def test_evaluation_resizes_boxes_with_the_image() -> None:
    sample = evaluation_transform(PLAIN)(make_sample((16, 24), (2, 4, 8, 12), (0, 0, 24, 16)))
    assert sample.image.shape == (3, 32, 48)
    assert sample.image.dtype == torch.float32
    assert sample.targets.size == (32, 48)
    assert sample.targets.boxes.tolist() == [[4, 8, 16, 24], [0, 0, 48, 32]]
    assert type(sample.targets.boxes) is Tensor
    assert sample.targets.image_id == 5


def test_normalises_with_mean_and_std() -> None:
    config = replace(PLAIN, mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))
    image = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    assert prepare_image(image, config).amax((1, 2)).tolist() == [1.0, 0.75, 0.5]


def test_a_bare_image_is_prepared_as_in_evaluation() -> None:
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    targets = make_sample((50, 70)).targets
    transformed = evaluation_transform(InputConfig())(Sample(image, targets))
    assert torch.equal(prepare_image(image, InputConfig()), transformed.image)


def test_resizes_as_pillow_does() -> None:
    image = torch.randint(0, 256, (3, 90, 120), dtype=torch.uint8)
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy())
    expected = np.asarray(pillow.resize((42, 32), Image.Resampling.BILINEAR))
    ours = prepare_image(image, PLAIN).permute(1, 2, 0).numpy() * 255
    assert np.abs(ours - expected).max() <= 1.001


@pytest.mark.parametrize(
    ("flips", "box"),
    [
        ({"horizontal_flip": 1.0}, [16, 4, 28, 20]),
        ({"vertical_flip": 1.0}, [4, 12, 16, 28]),
        ({"horizontal_flip": 1.0, "vertical_flip": 1.0}, [16, 12, 28, 28]),
    ],
)
def test_flips_image_and_boxes(flips: dict[str, float], box: list[int]) -> None:
    transform = training_transform(replace(STILL, **flips), PLAIN)
    sample = transform(make_sample((32, 32), (4, 4, 16, 20)))
    assert sample.targets.boxes.tolist() == [box]
    assert white_box(sample.image).tolist() == box


def test_flips_as_often_as_asked() -> None:
    transform = training_transform(replace(STILL, horizontal_flip=0.25), PLAIN)
    torch.manual_seed(0)
    lefts = [transform(make_sample((32, 32), (0, 0, 8, 8))).targets.boxes[0, 0] for _ in range(400)]
    assert 70 <= sum(left > 0 for left in lefts) <= 130


def test_short_sides_are_drawn_and_long_ones_limited() -> None:
    transform = training_transform(replace(STILL, short_sides=(16, 24, 32), max_side=40), PLAIN)
    torch.manual_seed(0)
    sizes = {transform(make_sample((32, 64))).targets.size for _ in range(40)}
    assert sizes == {(16, 32), (20, 40)}


@pytest.mark.parametrize("seed", range(30))
def test_boxes_follow_the_image_through_every_step(seed: int) -> None:
    augmentation = AugmentationConfig(
        vertical_flip=0.5,
        short_sides=(64, 80, 96),
        max_side=120,
        crop=0.7,
        crop_short_sides=(60, 70),
        crop_sides=(40, 60),
    )
    torch.manual_seed(seed)
    sample = training_transform(augmentation, PLAIN)(make_sample((90, 120), (40, 30, 80, 65)))
    assert tuple(sample.image.shape[1:]) == sample.targets.size
    # 1.6 pixels: the largest enlargement after the first resize has blurred an edge by one.
    assert (sample.targets.boxes[0] - white_box(sample.image)).abs().max() <= 1.6


def test_a_crop_drops_boxes_outside_with_their_labels() -> None:
    augmentation = replace(STILL, crop=1.0, crop_short_sides=(32,), crop_sides=(16, 16))
    transform = training_transform(augmentation, PLAIN)
    torch.manual_seed(0)
    seen = set()
    for _ in range(200):
        targets = transform(
            make_sample((32, 32), (0, 0, 4, 4), (14, 14, 18, 18), (28, 28, 32, 32))
        ).targets
        seen.add(tuple(targets.labels.tolist()))
        assert len(targets.boxes) == len(targets.labels)
        assert (targets.boxes[:, 2:] > targets.boxes[:, :2]).all()
        assert targets.boxes.min() >= 0
        assert targets.boxes.max() <= 32
    assert seen == {(1,), (0, 1), (1, 2)}


def test_crop_sides_span_what_the_image_allows() -> None:
    augmentation = replace(STILL, crop=1.0, crop_short_sides=(20,), crop_sides=(18, 30))
    transform = training_transform(augmentation, PLAIN)
    torch.manual_seed(0)
    sizes = [transform(make_sample((20, 80))).targets.size for _ in range(200)]
    ratios = [width / height for height, width in sizes]
    assert min(ratios) == pytest.approx(18 / 20, abs=0.05)
    assert max(ratios) == pytest.approx(30 / 18, abs=0.05)


def test_a_crop_lies_within_the_image() -> None:
    augmentation = replace(STILL, crop=1.0, crop_short_sides=(20,), crop_sides=(8, 16))
    transform = training_transform(augmentation, PLAIN)
    torch.manual_seed(0)
    for _ in range(50):
        assert transform(make_sample((20, 80), (0, 0, 80, 20))).image.min() == 1


def test_an_image_smaller_than_the_crop_is_kept_whole() -> None:
    augmentation = replace(STILL, crop=1.0, crop_short_sides=(16,), crop_sides=(384, 600))
    sample = training_transform(augmentation, PLAIN)(make_sample((16, 16), (0, 0, 16, 16)))
    assert sample.targets.boxes.tolist() == [[0, 0, 32, 32]]


def test_brightness_is_a_gain_within_its_range() -> None:
    grey = Sample(torch.full((3, 32, 32), 100, dtype=torch.uint8), make_sample((32, 32)).targets)
    transform = training_transform(replace(STILL, brightness=0.2), PLAIN)
    torch.manual_seed(0)
    images = torch.stack([transform(grey).image for _ in range(100)]) * 255
    assert images.min() == pytest.approx(80, abs=2)
    assert images.max() == pytest.approx(120, abs=2)
    assert torch.equal(images.amin((1, 2, 3)), images.amax((1, 2, 3)))


def test_transforms_survive_pickling() -> None:
    sample = make_sample((90, 120), (40, 30, 80, 65))
    for transform in (training_transform(AugmentationConfig(), PLAIN), evaluation_transform(PLAIN)):
        torch.manual_seed(0)
        expected = transform(sample)
        torch.manual_seed(0)
        assert torch.equal(pickle.loads(pickle.dumps(transform))(sample).image, expected.image)
