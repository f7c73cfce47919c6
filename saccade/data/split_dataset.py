"""The annotated images of one split as samples."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saccade.data.annotations import Annotations
from saccade.data.broken_images import said
from saccade.data.dataset import DetectionDataset, Transform
from saccade.data.images import read_image
from saccade.data.mixing import Mix
from saccade.data.split import Split
from saccade.run_config import OnBrokenImage
from saccade.structures import Sample, Targets


class SplitDataset(DetectionDataset):
    """The images of a split, in rising order of id.

    Crowds and boxes without area are left out and boxes are clipped to the image, as in the
    official code of DETR and Deformable DETR. Images without objects are kept.
    """

    def __init__(
        self,
        split: Split,
        class_names: Sequence[str] | None = None,
        transform: Transform | None = None,
        seed: int = 0,
        *,
        annotations: Annotations | None = None,
        on_broken_image: OnBrokenImage = "fail",
        mix: Mix | None = None,
    ) -> None:
        """Read and check the annotations; images are read when asked for.

        Args:
            split: See `saccade.data.find_split`.
            class_names: A detector's classes: labels become indices into them, matched by name.
                By default the dataset's categories in rising order of id.
            transform: Applied to every sample; see `DetectionDataset` for its randomness.
            seed: Of the order and of the augmentation.
            annotations: Of this split, where they have been read already.
            on_broken_image: See `DetectionDataset`.
            mix: Makes one sample of several, before `transform` (`saccade.data.mixing`).

        Raises:
            OSError: If an annotation file cannot be opened.
            ValueError: If one is unusable (see `Split.read`), has a category that `class_names`
                lacks, or an image that had to be opened for its size is broken.
        """
        annotations = split.read() if annotations is None else annotations
        names = tuple(annotations.categories.values()) if class_names is None else class_names
        super().__init__(names, transform, seed, on_broken_image, mix)
        if annotations.broken:
            if on_broken_image == "fail":
                raise ValueError(said(annotations.broken))
            warnings.warn(f"Left out: {said(annotations.broken)}", stacklevel=2)
        ids = {name: id for id, name in annotations.categories.items()}
        unknown = [name for name in ids if name not in self.class_names]
        if unknown:
            raise ValueError(
                f"{annotations.source} has categories that the detector does not know: "
                f"{', '.join(unknown)}. It knows {', '.join(self.class_names)}; rename or remove "
                "the former, or make a detector with these classes."
            )
        label_of = {id: self.class_names.index(name) for name, id in ids.items()}
        self._boxes, self._labels, counts = _targets(annotations, label_of)
        self._folder = split.images
        self._images = annotations.images
        ends = counts.cumsum(0)
        self._ranges = torch.stack([ends - counts, ends], 1).tolist()

    def __len__(self) -> int:
        return len(self._images)

    def file_of(self, image_id: int) -> Path | None:
        """The file of an image, by the id that the annotations give to it."""
        names = (each.file_name for each in self._images if each.id == image_id)
        name = next(names, None)
        return None if name is None else self._folder / name

    def size_of(self, index: int) -> tuple[int, int]:
        """The (height, width) of an image, as the annotations say."""
        return self._images[index].size

    def read(self, index: int) -> Sample:
        """The sample as stored: uint8 RGB [3, H, W], boxes as corners in pixels, no transform.

        Raises:
            FileNotFoundError: If the image is missing.
            ValueError: If the image is broken, or not as large as the annotations say.
        """
        image = self._images[index]
        start, end = self._ranges[index]
        file = self._folder / image.file_name
        targets = Targets(
            boxes=self._boxes[start:end].clone(),
            labels=self._labels[start:end].clone(),
            size=image.size,
            image_id=image.id,
        )
        return Sample(read_image(file, image.size), targets, file)


def _targets(
    annotations: Annotations, label_of: Mapping[int, int]
) -> tuple[Float[Tensor, "N 4"], Int64[Tensor, " N"], Int64[Tensor, " images"]]:
    """Boxes as clipped corners in pixels, labels, and the number of objects of each image.

    One tensor for all images: workers then share memory that Python objects would copy.
    """
    row_of = {image.id: row for row, image in enumerate(annotations.images)}
    objects = [entry for entry in annotations.objects if not entry.crowd]
    rows = torch.tensor([row_of[entry.image_id] for entry in objects], dtype=torch.int64)
    labels = torch.tensor([label_of[entry.category_id] for entry in objects], dtype=torch.int64)
    boxes = torch.tensor([entry.box for entry in objects]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    sizes = torch.tensor([image.size for image in annotations.images]).reshape(-1, 2)
    limits = sizes.flip(1).repeat(1, 2)[rows]
    boxes = boxes.clamp(min=0).minimum(limits)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)
    rows, order = rows[has_area].sort(stable=True)
    counts = torch.bincount(rows, minlength=len(annotations.images))
    return boxes[has_area][order], labels[has_area][order], counts
