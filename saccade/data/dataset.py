"""What every dataset of the library does, wherever its images come from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from saccade.structures import Sample

Transform = Callable[[Sample], Sample]


class DetectionDataset(Dataset[Sample], ABC):
    """Images and their objects, read on demand and transformed.

    A transform draws its randomness from torch's global CPU generator, which is seeded by
    (seed, epoch, index) around every call and restored afterwards. A sample therefore depends
    neither on the number of workers nor on where training was resumed.
    """

    def __init__(
        self, class_names: Sequence[str], transform: Transform | None = None, seed: int = 0
    ) -> None:
        self.class_names = tuple(class_names)
        self.transform = transform
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and augmentation come next; call it before iterating.

        Workers receive the dataset when an iteration starts, so the loaders of
        `saccade.data.batching` start theirs anew every epoch.
        """
        self.epoch = epoch

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Sample:
        """The sample as stored: uint8 RGB, boxes in pixels, no transform."""

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        sample = self.read(index)
        if self.transform is None:
            return sample
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would also reset the generators of the GPUs.
            torch.default_generator.manual_seed(random_seed(self.seed, self.epoch, index))
            return self.transform(sample)


def random_seed(*parts: int) -> int:
    """One well-mixed 64-bit seed from several non-negative integers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
