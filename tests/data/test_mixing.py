import pickle

import pytest
import torch

from saccade.data import DetectionDataset, training_loader
from saccade.data.mixing import copy_paste, mosaic, training_mix
from saccade.recipe_config import AugmentationConfig
from saccade.structures import Sample, Targets


def sample(colour: int, size: tuple[int, int], boxes: list[list[float]]) -> Sample:
    """A dark image in which every object is a rectangle of one colour, its label that colour."""
    image = torch.zeros(3, *size, dtype=torch.uint8)
    for left, top, right, bottom in boxes:
        image[:, int(top) : int(bottom), int(left) : int(right)] = colour
    labels = torch.full((len(boxes),), colour)
    return Sample(
        image, Targets(torch.tensor(boxes).float().reshape(-1, 4), labels, size, image_id=colour)
    )


FOUR = [
    sample(50, (60, 80), [[10, 10, 40, 40]]),
    sample(100, (30, 90), [[5, 5, 25, 25], [60, 10, 80, 20]]),
    sample(150, (100, 50), [[10, 20, 40, 80]]),
    sample(200, (60, 80), []),
]


def check_boxes_hold_their_colour(mixed: Sample) -> None:
    height, width = mixed.targets.size
    assert mixed.image.shape == (3, height, width)
    for (left, top, right, bottom), label in zip(
        mixed.targets.boxes.tolist(), mixed.targets.labels.tolist(), strict=True
    ):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        x, y = int((left + right) / 2), int((top + bottom) / 2)
        assert mixed.image[0, y, x].item() == label


def test_a_mosaic_is_as_large_as_the_first_and_boxes_follow_their_images() -> None:
    labels = set()
    for seed in range(20):
        torch.manual_seed(seed)
        mixed = mosaic(FOUR[0], FOUR[1:])
        assert mixed.targets.size == (60, 80)
        assert mixed.targets.image_id == 50
        check_boxes_hold_their_colour(mixed)
        labels |= set(mixed.targets.labels.tolist())
    assert labels == {50, 100, 150}


def test_a_mosaic_of_images_without_objects_has_none() -> None:
    mixed = mosaic(FOUR[3], [FOUR[3]] * 3)
    assert mixed.targets.boxes.shape == (0, 4)


def test_pasted_objects_come_with_their_pixels_and_covered_ones_go() -> None:
    hidden = sample(50, (60, 80), [[12, 12, 38, 38], [50, 40, 70, 55]])
    kept, pasted = set(), 0
    for seed in range(10):
        torch.manual_seed(seed)
        mixed = copy_paste(hidden, FOUR[0])
        torch.manual_seed(seed)
        chosen = bool(torch.rand(1) < 0.5)
        pasted += chosen
        assert len(mixed.targets.labels) == 2
        expected = [[50, 40, 70, 55], [10, 10, 40, 40]] if chosen else hidden.targets.boxes.tolist()
        assert mixed.targets.boxes.tolist() == expected
        kept.add(chosen)
    assert kept == {True, False}
    assert hidden.image[0, 11, 11] == 0


def test_a_box_within_the_last_pixel_is_pasted_as_that_pixel() -> None:
    other = sample(100, (60, 80), [[79.5, 59.5, 80, 60]])
    other.image[:, 59, 79] = 100
    for seed in range(6):
        torch.manual_seed(seed)
        mixed = copy_paste(FOUR[3], other)
        assert (mixed.image == 100).sum().item() == 3 * len(mixed.targets.labels)


def test_objects_that_come_with_a_rectangle_come_with_their_boxes() -> None:
    other = sample(100, (60, 80), [[10, 10, 60, 50]])
    inner = sample(150, (60, 80), [[20, 20, 30, 30]])
    other.image[:, 20:30, 20:30] = 150
    both = Targets(
        torch.cat([other.targets.boxes, inner.targets.boxes]), torch.tensor([100, 150]), (60, 80)
    )
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        mixed = copy_paste(FOUR[3], Sample(other.image, both))
        labels = mixed.targets.labels.tolist()
        assert (150 in labels) == bool((mixed.image == 150).any())
        seen.add(tuple(labels))
    assert seen == {(), (150,), (100, 150)}


def test_a_long_image_is_cut_before_it_is_resized() -> None:
    long = sample(100, (8, 3000), [[0, 0, 3000, 8]])
    torch.manual_seed(0)
    mixed = mosaic(sample(50, (400, 400), []), [long] * 3)
    assert mixed.image.shape == (3, 400, 400)


def test_an_image_of_a_few_pixels_stays_as_it_is() -> None:
    tiny = sample(50, (3, 3), [[0, 0, 3, 3]])
    assert mosaic(tiny, FOUR[:3]) is tiny


class Mixed(DetectionDataset):
    """The four images, mixed."""

    def __len__(self) -> int:
        return len(FOUR)

    def read(self, index: int) -> Sample:
        return FOUR[index]


def as_float(sample: Sample) -> Sample:
    return Sample(sample.image.float(), sample.targets)


@pytest.mark.parametrize("field", ["mosaic", "copy_paste"])
def test_a_dataset_mixes_alike_in_any_number_of_workers(field: str) -> None:
    mix = training_mix(AugmentationConfig(**{field: 1.0}))
    dataset = Mixed(["cell"] * 201, as_float, seed=3, mix=mix)
    epochs = []
    for num_workers in (0, 2):
        dataset.set_epoch(1)
        loader = training_loader(dataset, batch_size=2, num_workers=num_workers)
        epochs.append([(batch.images, targets) for batch, targets in loader])
    plain = training_loader(Mixed(["cell"] * 201, as_float, seed=3), batch_size=2)
    for (ours, targets), (theirs, others) in zip(*epochs, strict=True):
        assert torch.equal(ours, theirs)
        for mine, other in zip(targets, others, strict=True):
            assert torch.equal(mine.boxes, other.boxes)
    assert any(
        ours.shape != theirs.images.shape or not torch.equal(ours, theirs.images)
        for (ours, _), (theirs, _) in zip(epochs[0], plain, strict=True)
    )


def test_nothing_is_mixed_unless_asked() -> None:
    assert training_mix(AugmentationConfig()) is None


@pytest.mark.parametrize("field", ["mosaic", "copy_paste"])
def test_a_mix_can_be_pickled_and_depends_on_the_seed_alone(field: str) -> None:
    mix = training_mix(AugmentationConfig(**{field: 1.0}))
    assert mix is not None
    mix = pickle.loads(pickle.dumps(mix))
    drawn = []
    for seed in (3, 3, 4, 5, 6):
        torch.manual_seed(seed)
        drawn.append(mix(FOUR[0], lambda: FOUR[1]))
    assert torch.equal(drawn[0].image, drawn[1].image)
    assert any(not torch.equal(drawn[0].image, each.image) for each in drawn[2:])


@pytest.mark.parametrize("field", ["mosaic", "copy_paste"])
def test_probabilities_are_checked(field: str) -> None:
    with pytest.raises(ValueError, match=f"augmentation.{field} is 2"):
        AugmentationConfig(**{field: 2})
