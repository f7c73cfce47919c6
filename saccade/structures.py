"""What travels through the library: samples, batches, targets and predictions.

Every structure is frozen: a transform or a module returns a new one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from saccade.boxes import pixels_to_fractions


@dataclass(frozen=True)
class Targets:
    """The objects of one image."""

    boxes: Float[Tensor, "N 4"]
    """``x0, y0, x1, y1`` in pixels of an image of `size`."""
    labels: Int64[Tensor, " N"]
    """Index into the detector's class names."""
    size: tuple[int, int]
    """(height, width) of the image the boxes lie in, in pixels."""
    image_id: int = 0
    """The id that the annotations give to the image."""

    @property
    def fractions(self) -> Float[Tensor, "N 4"]:
        """The boxes as ``cx, cy, w, h``, fraction of image."""
        return pixels_to_fractions(self.boxes, self.size)

    def to(self, device: torch.device | str) -> "Targets":
        """The same targets with their tensors on `device`."""
        return replace(self, boxes=self.boxes.to(device), labels=self.labels.to(device))


@dataclass(frozen=True)
class Sample:
    """One image and its objects."""

    image: Tensor
    """[3, H, W]: uint8 RGB as read, or float and normalised once the transforms have run."""
    targets: Targets
    file: Path | None = None


@dataclass(frozen=True)
class Batch:
    """Images of different sizes, padded at the right and at the bottom to one size."""

    images: Float[Tensor, "B 3 H W"]
    """Normalised RGB; the padding holds zeros."""
    mask: Bool[Tensor, "B H W"]
    """True where a pixel is padding."""
    sizes: tuple[tuple[int, int], ...]
    """(height, width) of each image without its padding, in pixels."""

    @classmethod
    def from_images(cls, images: Sequence[Float[Tensor, "3 _ _"]]) -> "Batch":
        """Pad float CHW images, already normalised, to the largest height and width.

        Raises:
            ValueError: If there is no image, or one is not a float tensor of shape [3, H, W].

        >>> batch = Batch.from_images([torch.ones(3, 2, 4), torch.ones(3, 3, 2)])
        >>> batch.images.shape, batch.sizes
        (torch.Size([2, 3, 3, 4]), ((2, 4), (3, 2)))
        >>> batch.mask[1, 0].tolist()
        [False, False, True, True]
        """
        if not images:
            raise ValueError("no images to batch: expected at least one [3, H, W] tensor.")
        for index, image in enumerate(images):
            if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
                raise ValueError(
                    f"image {index} is a {image.dtype} tensor of shape {list(image.shape)}: "
                    "expected a float [3, H, W] tensor; convert and normalise it first."
                )
        sizes = tuple((image.shape[1], image.shape[2]) for image in images)
        height, width = (max(extents) for extents in zip(*sizes, strict=True))
        padded = images[0].new_zeros(len(images), 3, height, width)
        mask = torch.ones(len(images), height, width, dtype=torch.bool, device=padded.device)
        for index, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):
            padded[index, :, :h, :w] = image
            mask[index, :h, :w] = False
        return cls(padded, mask, sizes)

    @property
    def padded(self) -> bool:
        """Whether any image is smaller than the batch."""
        return any(size != tuple(self.images.shape[-2:]) for size in self.sizes)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its tensors on `device`."""
        return replace(self, images=self.images.to(device), mask=self.mask.to(device))


@dataclass(frozen=True)
class Origins:
    """Where the tokens of a sparse detector come from (TSP, section 4)."""

    boxes: Float[Tensor, "B S 4"]
    """``cx, cy, w, h``, fraction of image, which the predicted boxes move and stretch: proposals,
    or squares of eight strides around points of a pyramid."""
    reach: Float[Tensor, "B S 2"] | None = None
    """Of points: the objects of their level are those whose farthest edge is more than the first
    and at most the second of these away, in sides of `boxes`. None for proposals."""
    losses: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)
    """While training: the losses, by name, of what chose these tokens."""


@dataclass(frozen=True)
class Tokens:
    """Feature maps of all levels as one sequence, ordered level, row, column.

    Tokens that were selected (`origins`) are a set: one level of a single row.
    """

    features: Float[Tensor, "B S C"]
    positions: Float[Tensor, "B S C"]
    mask: Bool[Tensor, "B S"] | None
    """True where a token is padding; None where no image is padded."""
    spatial_shapes: tuple[tuple[int, int], ...]
    """(height, width) of each level in tokens, padding included; finest level first."""
    valid_ratios: Float[Tensor, "B L 2"]
    """The share (x, y) of each level's width and height that is not padding."""
    origins: Origins | None = None
    """Where each token comes from, if the tokens were selected."""


@dataclass(frozen=True)
class Queries:
    """What the decoder starts from."""

    content: Float[Tensor, "B Q C"]
    positions: Float[Tensor, "B Q C"]
    references: Float[Tensor, "B Q _"] | None
    """Reference points ``p_q``: x, y or cx, cy, w, h, fraction of image; None in DETR."""
    proposals: "Predictions | None" = None
    """The first stage of a two-stage detector."""
    blocked: Bool[Tensor, "Q Q"] | None = None
    """True where a query must not see another one in self-attention."""
    num_extra: int = 0
    """While training one-to-many: how many queries, the last ones, answer for objects that others
    answer for too."""
    matches: tuple[tuple[Tensor, Tensor], ...] | None = None
    """While denoising, per image: the indices of the noised queries that are to be restored, and
    of their targets. The noised queries come before the detector's own."""
    num_groups: int = 0
    """While denoising: how many noised queries restore each target."""
    num_noised: int = 0
    """While denoising: how many queries are noised ones."""
    origins: Origins | None = None
    """Where each query comes from, if it is a token that was selected."""


@dataclass(frozen=True)
class Predictions:
    """What a detector says of a batch: one scored box per query.

    ``auxiliary`` holds the same from every decoder layer but the last, first layer first;
    ``proposals`` the first stage of a two-stage detector, one box per encoder token;
    ``denoising`` what became of the noised queries while training with denoising, and
    ``one_to_many`` of those that learn objects several times.
    """

    logits: Float[Tensor, "B Q K"]
    """Before the sigmoid; in a softmax detector the last column is "no object"."""
    boxes: Float[Tensor, "B Q 4"]
    """``cx, cy, w, h``, fraction of image."""
    auxiliary: tuple["Predictions", ...] = ()
    proposals: "Predictions | None" = None
    denoising: "Predictions | None" = None
    one_to_many: "Predictions | None" = None
    matches: tuple[tuple[Tensor, Tensor], ...] | None = None
    """Fixed matches, which the loss uses for all layers instead of matching: those of noised
    queries (see `Queries.matches`), or a teacher's (`saccade.analysis.matching`)."""
    num_groups: int = 0
    """In ``denoising`` and ``one_to_many``: how many queries learn each object."""
    origins: Origins | None = None
    """Where each query comes from, which restricts what it may be matched with."""
