"""Batches of images of like shapes."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
import torch

from saccade.config import InputConfig
from saccade.data import DetectionDataset, evaluation_transform, training_loader
from saccade.structures import Batch, Sample, Targets
from tests.data.test_batching import Noise, ids

INPUT = InputConfig(short_side=8, max_side=32)


class Shapes(DetectionDataset):
    """Images of four aspect ratios, from twice as high as wide to twice as wide as high."""

    sizes = ((16, 8), (10, 8), (8, 10), (8, 16))

    def __init__(self, length: int, seed: int = 0) -> None:
        super().__init__(["thing"], evaluation_transform(INPUT), seed)
        self.length = length

    def __len__(self) -> int:
        return self.length

    def size_of(self, index: int) -> tuple[int, int]:
        return self.sizes[index % len(self.sizes)]

    def read(self, index: int) -> Sample:
        size = self.size_of(index)
        boxes, labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
        image = torch.zeros(3, *size, dtype=torch.uint8)
        return Sample(image, Targets(boxes, labels, size, index))


def padding(batches: Iterable[tuple[Batch, list[Targets]]]) -> float:
    masks = [batch.mask.flatten() for batch, _ in batches]
    return torch.cat(masks).float().mean().item()


def test_little_is_left_to_pad() -> None:
    """Of 400 images in fours: 45 % of the pixels are padding without buckets, 1 % with them."""
    plain = padding(training_loader(Shapes(400), batch_size=4))
    alike = padding(training_loader(Shapes(400), batch_size=4, aspect_bucketing=True))
    assert plain > 0.3
    assert alike < 0.02


@pytest.mark.parametrize(
    ("count", "world_size", "batch_size"), [(40, 1, 4), (43, 2, 3), (11, 3, 1)]
)
def test_the_same_images_come_as_often_in_as_many_batches(
    count: int, world_size: int, batch_size: int
) -> None:
    for epoch in (0, 1):
        came = []
        for bucketing in (False, True):
            dataset = Shapes(count)
            dataset.set_epoch(epoch)
            shares = [
                ids(
                    training_loader(
                        dataset,
                        batch_size=batch_size,
                        rank=rank,
                        world_size=world_size,
                        aspect_bucketing=bucketing,
                    )
                )
                for rank in range(world_size)
            ]
            assert len({len(share) for share in shares}) == 1
            came.append(sorted(id for share in shares for batch in share for id in batch))
        assert came[0] == came[1]
        assert len(set(came[0])) == len(came[0])


def test_processes_see_like_images_at_the_same_time() -> None:
    dataset = Shapes(160)
    shares = [
        ids(training_loader(dataset, batch_size=4, rank=rank, world_size=2, aspect_bucketing=True))
        for rank in range(2)
    ]
    turns = [[id % 4 for batch in turn for id in batch] for turn in zip(*shares, strict=True)]
    assert sum(len(set(turn)) == 1 for turn in turns) >= len(turns) - 3


def test_batches_are_others_in_every_epoch_and_shuffled() -> None:
    dataset = Shapes(80)
    loader = training_loader(dataset, batch_size=4, aspect_bucketing=True)
    epochs = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        epochs.append(ids(loader))
    assert epochs[0] == epochs[2]
    assert {frozenset(batch) for batch in epochs[0]}.isdisjoint(map(frozenset, epochs[1]))
    shapes = [batch[0] % 4 for batch in epochs[0]]
    assert sum(one > other for one, other in pairwise(shapes)) > 3


@pytest.mark.parametrize("taken", [1, 3])
def test_resumes_inside_an_epoch_with_the_same_batches(taken: int) -> None:
    dataset = Shapes(44)
    dataset.set_epoch(3)
    whole = ids(training_loader(dataset, batch_size=4, aspect_bucketing=True))
    loader = training_loader(dataset, batch_size=4, aspect_bucketing=True)
    loader.sampler.start = taken * 4
    assert ids(loader) == whole[taken:]


def test_a_dataset_must_know_its_sizes() -> None:
    with pytest.raises(ValueError, match="Noise does not tell the sizes of its images"):
        training_loader(Noise(8), batch_size=2, aspect_bucketing=True)
