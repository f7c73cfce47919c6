import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch

from saccade.config import InputConfig
from saccade.data import (
    DetectionDataset,
    Split,
    SplitDataset,
    collate,
    evaluation_loader,
    evaluation_transform,
    training_loader,
    training_transform,
)
from saccade.recipe_config import AugmentationConfig
from saccade.structures import Batch, Sample, Targets

# Python 3.12 and later warn when a process with threads, which torch has, forks.
# And torch warns of more workers than processors.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]

ROOT = Path(__file__).parents[2]
INPUT = InputConfig(short_side=8, max_side=16)


class Noise(DetectionDataset):
    """Images of noise, each with one box."""

    def __init__(self, length: int, seed: int = 0) -> None:
        augmentation = AugmentationConfig(
            short_sides=(6, 8), max_side=16, crop_short_sides=(8,), crop_sides=(4, 6)
        )
        super().__init__(["thing"], training_transform(augmentation, INPUT), seed)
        self.length = length

    def __len__(self) -> int:
        return self.length

    def read(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 8, 10), generator=generator, dtype=torch.uint8)
        boxes = torch.tensor([[1.0, 2.0, 5.0, 6.0]])
        return Sample(image, Targets(boxes, torch.zeros(1, dtype=torch.int64), (8, 10), index))


Batches = list[tuple[Batch, list[Targets]]]


def ids(batches: Iterable[tuple[Batch, list[Targets]]]) -> list[list[int]]:
    return [[target.image_id for target in targets] for _, targets in batches]


def assert_equal(ours: Batches, theirs: Batches) -> None:
    assert ids(ours) == ids(theirs)
    for (our_batch, _), (their_batch, _) in zip(ours, theirs, strict=True):
        assert torch.equal(our_batch.images, their_batch.images)


def test_collates_to_one_padded_batch() -> None:
    samples = [evaluation_transform(INPUT)(Noise(2).read(index)) for index in (0, 1)]
    batch, targets = collate(samples)
    assert batch.images.shape == (2, 3, 8, 10)
    assert targets == [sample.targets for sample in samples]


def test_training_shuffles_anew_every_epoch() -> None:
    dataset = Noise(10)
    loader = training_loader(dataset, batch_size=3)
    orders = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        orders.append(ids(loader))
    assert orders[0] == orders[2] != orders[1]
    assert [len(batch) for batch in orders[0]] == [3, 3, 3]
    assert len(loader) == 3
    assert len({id for batch in orders[0] for id in batch}) == 9


def test_the_seed_changes_the_order() -> None:
    assert ids(training_loader(Noise(10), batch_size=5)) != ids(
        training_loader(Noise(10, seed=1), batch_size=5)
    )


@pytest.mark.parametrize(
    ("count", "world_size", "batch_size"), [(12, 2, 3), (11, 4, 1), (13, 3, 2)]
)
def test_batches_of_all_processes_together_are_those_of_one(
    count: int, world_size: int, batch_size: int
) -> None:
    alone = ids(training_loader(Noise(count), batch_size=world_size * batch_size))
    shares = [
        ids(training_loader(Noise(count), batch_size=batch_size, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    together = [[id for batch in turn for id in batch] for turn in zip(*shares, strict=True)]
    assert [sorted(batch) for batch in together] == [sorted(batch) for batch in alone]


def test_more_processes_than_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 images, 0 for each of 5 .* or fewer processes"):
        training_loader(Noise(2), batch_size=1, rank=4, world_size=5)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_shares_are_disjoint_and_complete(world_size: int) -> None:
    shares = [
        ids(evaluation_loader(Noise(8), batch_size=3, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    if world_size == 1:
        assert shares == [[[0, 1, 2], [3, 4, 5], [6, 7]]]
    assert sorted(id for share in shares for batch in share for id in batch) == list(range(8))


def test_a_share_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has 7 images, 3 for each of 2 processes: .*batch of 5"):
        training_loader(Noise(7), batch_size=5, world_size=2)


def test_samples_do_not_depend_on_workers() -> None:
    alone = list(training_loader(Noise(10), batch_size=2))
    assert_equal(list(training_loader(Noise(10), batch_size=2, num_workers=2)), alone)


def test_the_epoch_reaches_the_workers() -> None:
    batches = {}
    for num_workers in (0, 2):
        dataset = Noise(4)
        loader = training_loader(dataset, batch_size=2, num_workers=num_workers)
        list(loader)
        dataset.set_epoch(1)
        batches[num_workers] = list(loader)
    assert_equal(batches[2], batches[0])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumes_inside_an_epoch(num_workers: int) -> None:
    dataset = Noise(10)
    dataset.set_epoch(3)
    loader = training_loader(dataset, batch_size=2, num_workers=num_workers)
    whole = list(loader)
    iterator = iter(loader)
    for _ in range(2):
        next(iterator)
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    del iterator

    fresh = Noise(10)
    fresh.set_epoch(3)
    resumed = training_loader(fresh, batch_size=2, num_workers=num_workers)
    resumed.load_state_dict(state)
    assert_equal(list(resumed), whole[2:])
    fresh.set_epoch(4)
    assert len(list(resumed)) == 5


def test_loading_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    list(training_loader(Noise(4), batch_size=2))
    list(training_loader(Noise(4), batch_size=2, num_workers=1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_image_is_one_sentence(
    write_coco: Callable[..., Split], num_workers: int
) -> None:
    split = write_coco(dict.fromkeys(range(4), (8, 10)))
    (split.images / "2.png").write_bytes(b"no image")
    (split.images / "3.png").unlink()
    dataset = SplitDataset(split, transform=evaluation_transform(INPUT))
    batches = iter(evaluation_loader(dataset, batch_size=1, num_workers=num_workers))
    assert ids([next(batches), next(batches)]) == [[0], [1]]
    with pytest.raises(ValueError, match=r"^\S*2\.png cannot be read as an image .*\?$"):
        next(batches)
    with pytest.raises(FileNotFoundError) as raised:
        next(batches)
    assert raised.value.filename == str(split.images / "3.png")


def test_everything_a_spawned_worker_receives_can_be_pickled() -> None:
    loader = evaluation_loader(Noise(4), batch_size=2)
    dataset, collated = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn)))
    batch, _ = collated([dataset[0], dataset[1]])
    assert torch.equal(batch.images, collate([Noise(4)[0], Noise(4)[1]])[0].images)


UNFINISHED = """
import gc
from saccade.data import evaluation_loader
from tests.data.test_batching import Noise

batches = iter(evaluation_loader(Noise(8), batch_size=1, num_workers=1))
next(batches)
"""
COLLECTED = "cycle = [batches]; cycle.append(cycle); del batches, cycle; gc.collect()"


@pytest.mark.parametrize("then", ["", COLLECTED])
def test_a_process_ends_that_did_not_take_all_batches(then: str) -> None:
    command = [sys.executable, "-c", UNFINISHED + then]
    subprocess.run(command, check=True, timeout=250, cwd=ROOT)


@pytest.mark.slow
def test_workers_may_be_spawned(write_coco: Callable[..., Split]) -> None:
    dataset = SplitDataset(
        write_coco(dict.fromkeys(range(4), (8, 10))), transform=evaluation_transform(INPUT)
    )
    spawned = evaluation_loader(dataset, batch_size=2, num_workers=1)
    spawned.multiprocessing_context = "spawn"
    assert_equal(list(spawned), list(evaluation_loader(dataset, batch_size=2)))
