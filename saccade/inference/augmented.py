"""Test-time augmentation: an image is looked at in several ways, and what is found is fused."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from saccade.boxes import centre_to_corners, corners_to_centre
from saccade.config import DetectorConfig, InputConfig
from saccade.data import normalise, resize_image
from saccade.model import DetectorModel, Found, select
from saccade.structures import Batch

SAME_OBJECT = 0.55
"""IoU from which boxes of different views are one object's (Solovyev et al., section 4)."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One way to look at an image."""

    scale: float = 1.0
    """Of the sides to which the detector's input is resized."""
    mirrored: bool = False
    """Left and right change places."""
    upside_down: bool = False
    """Top and bottom change places."""

    def __post_init__(self) -> None:
        if not 0.1 <= self.scale <= 10:
            raise ValueError(
                f"the scale of a view is {self.scale}: expected 0.1 to 10, such as 0.8 or 1.2."
            )

    def prepare(
        self, pixels: UInt8[Tensor, "3 H W"], config: InputConfig
    ) -> Float[Tensor, "3 h w"]:
        """The image as the detector is shown it."""
        return normalise(self.resize(pixels, config), config)

    def resize(self, pixels: UInt8[Tensor, "3 H W"], config: InputConfig) -> UInt8[Tensor, "3 h w"]:
        """The same before it is normalised."""
        sides = (max(1, round(self.scale * side)) for side in (config.short_side, config.max_side))
        short_side, max_side = sides
        image = resize_image(pixels, replace(config, short_side=short_side, max_side=max_side))
        flipped = [axis for axis, turn in ((-1, self.mirrored), (-2, self.upside_down)) if turn]
        return image.flip(flipped) if flipped else image

    def back(self, boxes: Float[Tensor, "N 4"]) -> Float[Tensor, "N 4"]:
        """Boxes of this view in the image itself; both are ``cx, cy, w, h``, fraction of image."""
        cx, cy, w, h = boxes.unbind(-1)
        cx = 1 - cx if self.mirrored else cx
        cy = 1 - cy if self.upside_down else cy
        return torch.stack([cx, cy, w, h], -1)


def make_views(
    scales: Sequence[float], horizontal: bool = True, vertical: bool = False
) -> list[View]:
    """Every scale as it is, and flipped in each of these ways.

    Raises:
        ValueError: If there is no scale, or one is not in 0.1 to 10.

    >>> len(make_views([1.0, 1.2]))
    4
    """
    if not scales:
        raise ValueError("no scales to look at: expected one or more, such as 1 0.8 1.2.")
    views = []
    for scale in scales:
        views.append(View(scale=scale))
        if horizontal:
            views.append(View(scale=scale, mirrored=True))
        if vertical:
            views.append(View(scale=scale, upside_down=True))
    return views


class AugmentedModel:
    """A detector that looks at each image in several views."""

    def __init__(
        self, model: DetectorModel, config: DetectorConfig, views: Sequence[View], top_k: int = 100
    ) -> None:
        """Look at nothing yet.

        Args:
            model: In evaluation mode.
            config: The detector's.
            views: See `make_views`.
            top_k: Most detections per image, of every view and of all together.
        """
        self.model = model
        self.config = config
        self.views = tuple(views)
        self.top_k = top_k

    def __call__(self, pixels: UInt8[Tensor, "3 H W"], device: torch.device) -> Found:
        """What is found in an image, best first; boxes are fractions of it."""
        seen = []
        for view in self.views:
            batch = Batch.from_images([view.prepare(pixels, self.config.input).to(device)])
            found = select(self.model(batch), self.config.classification, self.top_k)[0]
            seen.append(replace(found, boxes=view.back(found.boxes)))
        return fuse(seen, self.top_k)


def fuse(seen: Sequence[Found], top_k: int = 100, same_object: float = SAME_OBJECT) -> Found:
    """What several views found as one list, by weighted box fusion within each class.

    Surest first, a box joins the fused box of its class that it overlaps most, or begins another;
    a fused box is the mean of its boxes weighted by their scores, and its score is the sum of
    theirs over the number of views (Solovyev, Wang and Gabruseva: Weighted boxes fusion, Image and
    Vision Computing 2021, section 4). Unlike there, it takes one box of each view at most: a
    detector without suppression has told neighbours apart already.

    Args:
        seen: Of each view, boxes as fractions of the image itself.
        top_k: Most that are returned.
        same_object: The least IoU of a box with the fused box that it joins.
    """
    if len(seen) == 1:
        return seen[0]
    # To the CPU first: Apple's GPUs have no float64.
    boxes = np.concatenate([centre_to_corners(each.boxes.cpu().double()).numpy() for each in seen])
    scores = np.concatenate([each.scores.cpu().double().numpy() for each in seen])
    labels = np.concatenate([each.labels.cpu().numpy() for each in seen])
    queries = np.concatenate([each.queries.cpu().numpy() for each in seen])
    views = np.repeat(np.arange(len(seen)), [len(each.scores) for each in seen])
    fused = np.zeros((len(boxes), 4))
    totals = np.zeros(len(boxes))
    classes = np.full(len(boxes), -1)
    firsts = np.zeros(len(boxes), np.int64)
    taken = np.zeros((len(boxes), len(seen)), bool)
    count = 0
    for row in np.argsort(-scores, kind="stable"):
        free = np.flatnonzero((classes[:count] == labels[row]) & ~taken[:count, views[row]])
        overlaps = _ious(boxes[row], fused[free])
        best = count
        if len(free) and overlaps.max() >= same_object:
            best = int(free[overlaps.argmax()])
        else:
            classes[count], firsts[count] = labels[row], row
            count += 1
        weight = totals[best] + scores[row]
        share = scores[row] / weight if weight else 1.0
        fused[best] += share * (boxes[row] - fused[best])
        totals[best] = weight
        taken[best, views[row]] = True
    order = np.argsort(-totals[:count], kind="stable")[:top_k]
    like = seen[0]
    return Found(
        corners_to_centre(torch.from_numpy(fused[order]).to(like.boxes.dtype)).to(like.boxes),
        torch.from_numpy(totals[order] / len(seen)).to(like.scores.dtype).to(like.scores),
        torch.from_numpy(classes[order]).to(like.labels),
        torch.from_numpy(queries[firsts[order]]).to(like.queries),
    )


def _ious(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[N], of corners; 0 where both lack area."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(min=0).prod(1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
