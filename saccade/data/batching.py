"""Samples to batches, and the loaders of training and evaluation."""

import atexit
import signal
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch.utils.data import Dataset, Sampler
from torchdata.stateful_dataloader import StatefulDataLoader

from saccade.data.buckets import group_alike
from saccade.data.dataset import DetectionDataset, random_seed
from saccade.structures import Batch, Sample, Targets


def collate(samples: Sequence[Sample]) -> tuple[Batch, list[Targets]]:
    """Pad the images of transformed samples to one batch; targets stay one per image."""
    images = [sample.image for sample in samples]
    return Batch.from_images(images), [sample.targets for sample in samples]


class ShuffledShard(Sampler[int]):
    """One process's share of a shuffled epoch.

    The order depends only on the dataset's seed and epoch, and is dealt out in turn: batches of all
    processes together are those of one process with a batch as large. Every process gets equally
    many indices; what is left at the end of the order is left out.
    """

    def __init__(
        self, dataset: DetectionDataset, rank: int, world_size: int, batch_size: int | None = None
    ) -> None:
        """Take a share.

        Args:
            dataset: What is shuffled.
            rank: Of the process.
            world_size: Of them.
            batch_size: Of one process, where the images of a batch are to have like aspect ratios.

        Raises:
            ValueError: If they are to, and the dataset does not know the sizes of its images.
        """
        self.dataset = dataset
        self.rank = rank
        self.world_size = world_size
        self.group = None if batch_size is None else batch_size * world_size
        self.aspects = [] if batch_size is None else _aspects(dataset)
        self.start = 0
        """How many indices the next iterations leave out, to resume inside an epoch."""

    def __len__(self) -> int:
        return len(self.dataset) // self.world_size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(random_seed(self.dataset.seed, self.dataset.epoch))
        order = torch.randperm(len(self.dataset), generator=generator).tolist()
        if self.group is not None:
            order = group_alike(order, self.aspects, self.group, generator)
        for turn in range(self.start, len(self)):
            yield order[turn * self.world_size + self.rank]


def _aspects(dataset: DetectionDataset) -> list[float]:
    aspects = []
    for index in range(len(dataset)):
        size = dataset.size_of(index)
        if size is None:
            raise ValueError(
                f"{type(dataset).__name__} does not tell the sizes of its images, which "
                "aspect_bucketing needs: switch that off, or define size_of."
            )
        aspects.append(size[1] / size[0])
    return aspects


class _Reader(Dataset[Sample | Exception]):
    """A dataset that hands over the errors of its files as samples.

    Raised in a worker process, their sentence would come out inside the worker's traceback.
    """

    def __init__(self, dataset: DetectionDataset) -> None:
        self.dataset = dataset

    def set_epoch(self, epoch: int) -> None:
        self.dataset.set_epoch(epoch)

    def file_of(self, image_id: int) -> Path | None:
        return self.dataset.file_of(image_id)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample | Exception:
        try:
            return self.dataset[index]
        except (ValueError, OSError) as error:
            return error


def _collate_or_error(
    samples: Sequence[Sample | Exception],
) -> tuple[Batch, list[Targets]] | Exception:
    read: list[Sample] = []
    for sample in samples:
        if isinstance(sample, Exception):
            return sample
        read.append(sample)
    return collate(read)


class _Loader(StatefulDataLoader):  # type: ignore[misc]
    """Raises, in the process that iterates, the errors that `_Reader` handed over."""

    def __iter__(self) -> Iterator[Any]:
        batches = super().__iter__()
        if self.num_workers:
            _with_workers.add(batches)
            for worker in batches._workers:
                # The last resort of torch and multiprocessing is SIGTERM, and then they wait for
                # ever. Torch comes to it when the garbage collector closes the queues first.
                worker._popen.terminate = worker._popen.kill
        return map(_raise_error, batches)


_with_workers: WeakSet[Any] = WeakSet()
"""Iterators that something still refers to, be it the traceback of an error."""


@atexit.register
def _stop_workers() -> None:
    """Ask workers to end before multiprocessing kills them, of which torch would complain."""
    for batches in list(_with_workers):
        batches._shutdown_workers()


def _raise_error(
    batch: tuple[Batch, list[Targets]] | Exception,
) -> tuple[Batch, list[Targets]]:
    if isinstance(batch, Exception):
        raise batch
    return batch


def training_loader(
    dataset: DetectionDataset,
    *,
    batch_size: int,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    aspect_bucketing: bool = False,
) -> StatefulDataLoader:
    """Shuffled batches of (Batch, list[Targets]) for one process; a last, smaller one is left out.

    Call ``dataset.set_epoch(epoch)`` before every epoch. To resume inside an epoch, set the same
    epoch and, as ``loader.sampler.start``, the batches that were taken times `batch_size`: the
    number of workers may then be another. ``loader.load_state_dict`` of what
    ``loader.state_dict()`` gave does the same with as many workers.

    Args:
        dataset: Its transform must return float images.
        batch_size: Images per batch and process.
        num_workers: Processes that read and transform; 0 for none but the caller.
        rank: This process, counted from 0.
        world_size: How many processes train together.
        aspect_bucketing: Whether the images of a batch have like aspect ratios, in all processes;
            every image comes as often as otherwise.

    Raises:
        ValueError: If a process's share of the dataset does not fill one batch, or there are to be
            buckets and the dataset does not know the sizes of its images.
    """
    sampler = ShuffledShard(dataset, rank, world_size, batch_size if aspect_bucketing else None)
    if len(sampler) < batch_size:
        raise ValueError(
            f"the dataset has {len(dataset)} images, {len(sampler)} for each of {world_size} "
            f"processes: expected at least one batch of {batch_size}; choose a smaller batch size "
            "or fewer processes."
        )
    return _loader(dataset, sampler, batch_size, num_workers, training=True)


def evaluation_loader(
    dataset: DetectionDataset,
    *,
    batch_size: int,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> StatefulDataLoader:
    """Batches of (Batch, list[Targets]) in order; the processes' shares do not overlap.

    Arguments as in `training_loader`. Shares differ by at most one image, so processes may see
    different numbers of batches.
    """
    shard = range(rank, len(dataset), world_size)
    return _loader(dataset, shard, batch_size, num_workers, training=False)


def _leave_signals_to_the_trainer(_: int) -> None:
    """Ctrl-C and schedulers reach all processes, but a run still reads the batches of its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _loader(
    dataset: DetectionDataset,
    order: Sampler[int] | Sequence[int],
    batch_size: int,
    num_workers: int,
    *,
    training: bool,
) -> StatefulDataLoader:
    with warnings.catch_warnings():
        # torchdata 0.11 calls what torch 2.15 deprecates.
        warnings.filterwarnings("ignore", "'set_vital' is deprecated")
        return _Loader(
            _Reader(dataset),
            sampler=order,
            batch_size=batch_size,
            num_workers=num_workers,
            collate_fn=_collate_or_error,
            drop_last=training,
            # A worker takes seconds to start where processes are not forked.
            persistent_workers=training and num_workers > 0,
            worker_init_fn=_leave_signals_to_the_trainer,
            # Its own generator, so that loading does not advance the global one of the training.
            generator=torch.Generator(),
        )
