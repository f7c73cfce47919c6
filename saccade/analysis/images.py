"""The images that analyses look at: a few of a dataset, always the same."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from saccade.config import DetectorConfig
from saccade.data import SplitDataset, collate, evaluation_transform, find_split
from saccade.run_config import OnBrokenImage
from saccade.structures import Batch, Targets


class FewImages:
    """Some images of a split, spread evenly over it, each a batch of its own without padding."""

    def __init__(
        self,
        data: Path,
        split: str,
        config: DetectorConfig,
        count: int,
        on_broken_image: OnBrokenImage = "fail",
    ) -> None:
        """Read the annotations; images are read whenever one iterates.

        Args:
            data: The dataset's folder.
            split: Which part of it.
            config: Of the detector: its input, and its classes, which are matched by name; objects
                of other categories are left out.
            count: How many images; all of them where the split has fewer.
            on_broken_image: See `saccade.data.DetectionDataset`.

        Raises:
            ValueError: If there is no such split, it is unusable or `count` is below 1.
        """
        if count < 1:
            raise ValueError(f"{count} images to look at: expected at least 1, such as 8.")
        transform = evaluation_transform(config.input)
        self.dataset = SplitDataset(
            find_split(data, split), transform=transform, on_broken_image=on_broken_image
        )
        names = {name: label for label, name in enumerate(config.class_names)}
        self.labels = torch.tensor([names.get(name, -1) for name in self.dataset.class_names])
        count = min(count, len(self.dataset))
        self.indices = [turn * len(self.dataset) // count for turn in range(count)]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[Batch, list[Targets]]]:
        for index in self.indices:
            batch, (targets,) = collate([self.dataset[index]])
            labels = self.labels[targets.labels]
            known = labels >= 0
            yield batch, [replace(targets, boxes=targets.boxes[known], labels=labels[known])]
