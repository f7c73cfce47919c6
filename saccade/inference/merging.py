"""What was found in tiles that overlap, put together to what is in the image.

A detector without suppression names each object once per view, so that two detections of one view
are two objects. Those of two views are one object if they agree on what both views show of it: a
box that ends at an inner border of its tile is part of an object, and is measured against the
other box where the two views overlap.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saccade.boxes import fractions_to_pixels, pixels_to_fractions
from saccade.model import Found

SAME_OBJECT = 0.5
"""Least overlap of two views' boxes of one object: intersection over union where both boxes are
complete, over the smaller box if one is cut (as arXiv:2202.06934 matches all boxes)."""
TOUCHES = 0.02
"""A box that comes as near to an inner border of its tile, as a share of the tile's side, is cut:
detectors are not exact to the pixel."""

Floats = npt.NDArray[np.float64]


def merge(
    found: Sequence[Found],
    windows: Sequence[tuple[int, int, int, int]],
    size: tuple[int, int],
    threshold: float,
) -> Found:
    """Merge detections of overlapping views within each class.

    Pairs are joined, those first that agree best on what both views show, as long as an object
    has one detection of each view at most. Each side of the merged box is that of the best-scored
    member whose own is not cut off there, or else the outermost; the score is the best one.
    Detections below the threshold are left out before, since they would enlarge boxes.

    Args:
        found: Of each view; boxes are fractions of it.
        windows: ``x0, y0, x1, y1`` of each view in pixels of the image.
        size: (height, width) of the image in pixels.
        threshold: Lowest score that counts.

    Returns:
        Best first; boxes are fractions of the image.
    """
    sure = [one.scores >= threshold for one in found]
    frames = np.array(windows, np.float64)
    parts = [
        _in_image(one.boxes[rows], window)
        for one, rows, window in zip(found, sure, windows, strict=True)
    ]
    boxes = torch.cat(parts).numpy()
    scores = torch.cat([one.scores[rows] for one, rows in zip(found, sure, strict=True)])
    labels = torch.cat([one.labels[rows] for one, rows in zip(found, sure, strict=True)])
    queries = torch.cat([one.queries[rows] for one, rows in zip(found, sure, strict=True)])
    views = np.repeat(np.arange(len(found)), [int(rows.sum()) for rows in sure])
    cut = _cut_sides(boxes, frames[views], size)
    objects = _objects(boxes, labels.numpy(), views, np.asarray(cut.any(1)), frames)
    # Best first within an object, and so among the objects.
    order = np.argsort(-scores.numpy(), kind="stable")
    members: dict[int, list[int]] = {}
    for row in order:
        members.setdefault(int(objects[row]), []).append(int(row))
    best = torch.tensor([rows[0] for rows in members.values()], dtype=torch.int64)
    merged = [_merged(boxes[rows], cut[rows]) for rows in members.values()]
    corners = torch.from_numpy(np.array(merged).reshape(-1, 4))
    like = found[0].boxes
    return Found(
        pixels_to_fractions(corners, size).to(like.dtype),
        scores[best],
        labels[best],
        queries[best],
    )


def _in_image(boxes: Tensor, window: tuple[int, int, int, int]) -> Tensor:
    """Fractions of a view as corners in pixels of the image, not beyond the view."""
    left, top, right, bottom = window
    corners = fractions_to_pixels(boxes.double().cpu(), (bottom - top, right - left))
    corners = corners + corners.new_tensor([left, top, left, top])
    return torch.stack([corners[:, side].clamp(*window[side % 2 :: 2]) for side in range(4)], -1)


def _cut_sides(boxes: Floats, frames: Floats, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Which of the sides ``x0, y0, x1, y1`` lie at a border of the view inside the image."""
    height, width = size
    border = np.array([0, 0, width, height])
    sides = frames[:, 2:] - frames[:, :2]
    near = np.abs(boxes - frames) <= TOUCHES * np.concatenate([sides, sides], 1)
    inner: npt.NDArray[np.bool_] = near & (frames != border)
    return inner


def _objects(
    boxes: Floats,
    labels: npt.NDArray[np.int64],
    views: npt.NDArray[np.int64],
    is_cut: npt.NDArray[np.bool_],
    frames: Floats,
) -> npt.NDArray[np.int64]:
    """[N], a number for each object."""
    # A large image has thousands of views, most of which show nothing.
    found, starts = np.unique(views, return_index=True)
    rows_of = np.split(np.arange(len(boxes)), starts[1:])
    seen = frames[found]
    agreeing = []
    for first in range(len(found)):
        lows = np.maximum(seen[first, :2], seen[first + 1 :, :2])
        highs = np.minimum(seen[first, 2:], seen[first + 1 :, 2:])
        for place in np.flatnonzero((highs > lows).all(1)):
            shared = np.concatenate([lows[place], highs[place]])
            others = rows_of[first + 1 + place]
            agreeing += _pairs(boxes, labels, is_cut, rows_of[first], others, shared)
    objects = np.arange(len(boxes))
    members = {row: [row] for row in range(len(boxes))}
    for _, one, other in sorted(agreeing, key=lambda pair: (-pair[0], pair[1], pair[2])):
        kept, gone = int(objects[one]), int(objects[other])
        seen_by = {int(views[row]) for row in members[kept]}
        if kept != gone and seen_by.isdisjoint(int(views[row]) for row in members[gone]):
            objects[members[gone]] = kept
            members[kept] += members.pop(gone)
    return objects


def _pairs(
    boxes: Floats,
    labels: npt.NDArray[np.int64],
    is_cut: npt.NDArray[np.bool_],
    ones: npt.NDArray[np.intp],
    others: npt.NDArray[np.intp],
    shared: Floats,
) -> list[tuple[float, int, int]]:
    """Pairs of two views that may be one object, with how well they agree in what both show.

    `shared` is ``x0, y0, x1, y1`` of what both show.
    """
    parts, other_parts = _clipped(boxes[ones], shared), _clipped(boxes[others], shared)
    union, smaller = _overlaps(parts, other_parts)
    complete, _ = _overlaps(boxes[ones], boxes[others])
    either_cut = is_cut[ones][:, None] | is_cut[others][None]
    same = labels[ones][:, None] == labels[others][None]
    agrees = same & (np.where(either_cut, smaller, complete) >= SAME_OBJECT)
    return [
        (float(union[place, other]), int(ones[place]), int(others[other]))
        for place, other in np.argwhere(agrees)
    ]


def _clipped(boxes: Floats, window: Floats) -> Floats:
    low, high = np.tile(window[:2], 2), np.tile(window[2:], 2)
    clipped: Floats = boxes.clip(low, high)
    return clipped


def _overlaps(boxes: Floats, others: Floats) -> tuple[Floats, Floats]:
    """[N, M] intersections over union and over the smaller box; 0 where one lacks area."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (high - low).clip(min=0).prod(-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None]
    other_areas = (others[:, 2:] - others[:, :2]).prod(-1)[None]
    smaller = np.minimum(areas, other_areas)
    nothing = np.zeros_like(shared)
    return (
        np.divide(shared, areas + other_areas - shared, out=nothing.copy(), where=shared > 0),
        np.divide(shared, smaller, out=nothing, where=shared > 0),
    )


def _merged(boxes: Floats, cut: npt.NDArray[np.bool_]) -> Floats:
    """The box of an object from those of its detections, best first."""
    outermost = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])
    first_whole = np.argmin(cut, 0)
    merged: Floats = np.where(cut.all(0), outermost, boxes[first_whole, np.arange(4)])
    return merged
