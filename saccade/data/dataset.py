"""What every dataset of the library does, wherever its images come from."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from saccade.data.mixing import Mix
from saccade.run_config import OnBrokenImage
from saccade.structures import Sample

Transform = Callable[[Sample], Sample]
MOST_REPLACEMENTS = 20
"""Images that are tried in the place of a broken one. That all of them are broken too is no longer
a matter of a few files."""


class DetectionDataset(Dataset[Sample], ABC):
    """Images and their objects, read on demand and transformed.

    A mix, which sees other images too, and then a transform draw their randomness from torch's
    global CPU generator, seeded by (seed, epoch, index) before them and restored afterwards. A
    sample therefore depends neither on the number of workers nor on where training was resumed.

    With ``on_broken_image="skip"`` the same holds for what takes the place of an image that cannot
    be read: another one, drawn by (seed, epoch, index), with a warning.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        transform: Transform | None = None,
        seed: int = 0,
        on_broken_image: OnBrokenImage = "fail",
        mix: Mix | None = None,
    ) -> None:
        self.class_names = tuple(class_names)
        self.mix = mix
        self.transform = transform
        self.seed = seed
        self.on_broken_image = on_broken_image
        # In memory that workers share, which hold copies of the dataset for longer than an epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and augmentation come next; call it before iterating."""
        self._epoch.fill_(epoch)

    @property
    def epoch(self) -> int:
        """What `set_epoch` chose; at first 0."""
        return int(self._epoch)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Sample:
        """The sample as stored: uint8 RGB, boxes in pixels, no transform."""

    def file_of(self, image_id: int) -> Path | None:  # noqa: ARG002
        """The file of an image, for messages; None if it has none."""
        return None

    def size_of(self, index: int) -> tuple[int, int] | None:  # noqa: ARG002
        """The (height, width) of an image as stored, in pixels; None if only reading it tells."""
        return None

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        sample = self._read_or_replace(index)
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would also reset the generators of the GPUs.
            torch.default_generator.manual_seed(random_seed(self.seed, self.epoch, index))
            if self.mix is not None:
                sample = self.mix(sample, self._read_another)
            return sample if self.transform is None else self.transform(sample)

    def _read_another(self) -> Sample:
        return self._read_or_replace(int(torch.randint(len(self), ())))

    def _read_or_replace(self, index: int) -> Sample:
        try:
            return self.read(index)
        except (ValueError, OSError) as error:
            if self.on_broken_image == "fail":
                raise
            broken = error
        for attempt in range(1, MOST_REPLACEMENTS + 1):
            other = random_seed(self.seed, self.epoch, index, attempt) % len(self)
            try:
                sample = self.read(other)
            except (ValueError, OSError):
                continue
            warnings.warn(f"{broken} Another image takes its place.", stacklevel=3)
            return sample
        raise ValueError(
            f"{broken} Nor could any of {MOST_REPLACEMENTS} others be read that were drawn to take "
            "its place: expected a few broken images; is the disk still there?"
        ) from broken


def random_seed(*parts: int) -> int:
    """One well-mixed 64-bit seed from several non-negative integers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
