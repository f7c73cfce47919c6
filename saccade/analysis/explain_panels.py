"""The panels of an explanation: the image with what was looked at, legible on any background."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.patches import Rectangle
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.transforms import IdentityTransform
from PIL import Image

from saccade.analysis.draw import COLOURS, Pixels

WIDTH = 840
"""Of a panel, in pixels; it is shown at about half of this."""
MARKERS = ("o", "s", "^", "D", "P")
"""Of the levels, finest first."""
WEIGHTS = LinearSegmentedColormap.from_list(
    "weights", colormaps["viridis"](np.linspace(0.12, 1, 256))
)
"""Of attention weights and scores; the darkest of viridis is left out, for dark backgrounds."""
SALIENCE = colormaps["inferno"]
INK, LIGHT, START, MOVED = "#101418", "#ffffff", "#ff9d2e", "#37d3ff"
"""Outlines; references; first-stage proposals; predicted boxes."""
_DARK = [withStroke(linewidth=5.2, foreground=INK)]

Box = Sequence[float | int]
Points = Sequence[Sequence[float | int]]
"""x, y, weight, level, head."""
Draw = Callable[[Axes], None]


def weight_norm(points: Points) -> Normalize:
    """From weight 0 to the largest; a square root, since most weights are small."""
    return PowerNorm(0.5, 0, max((point[2] for point in points), default=1.0) or 1.0)


def panel(
    image: Pixels,
    draw: Draw,
    view: Box | None = None,
    muted: bool = True,
    width: int = WIDTH,
) -> Pixels:
    """A part of an image with something drawn on it.

    Args:
        image: [H, W, 3], RGB.
        draw: Draws in pixels of the image.
        view: What is shown, ``x0, y0, x1, y1`` in pixels; everything by default.
        muted: Whether the image's colours step back behind what is drawn.
        width: Of the panel, in pixels.

    Returns:
        [h, width, 3], RGB.
    """
    x0, y0, x1, y1 = view or (0, 0, image.shape[1], image.shape[0])
    part, (left, top, right, bottom) = _seen(image, (x0, y0, x1, y1), width)
    figure = Figure(figsize=(width / 100, width / 100 * (y1 - y0) / (x1 - x0)), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    shown = mute(part) if muted else part
    extent = (left, right, bottom, top)
    axes.imshow(shown, extent=extent, interpolation="bilinear", aspect="auto")
    axes.set(xlim=(x0, x1), ylim=(y1, y0), autoscale_on=False)
    axes.axis("off")
    draw(axes)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="rgba", dpi=100)
    return np.frombuffer(drawn.getvalue(), np.uint8).reshape(-1, width, 4)[..., :3].copy()


def _seen(image: Pixels, view: Box, width: int) -> tuple[Pixels, tuple[int, int, int, int]]:
    """What a view shows of an image, about twice as fine as it is drawn, and where that is.

    A photograph of many megapixels would take seconds for each panel.
    """
    rows, columns = image.shape[:2]
    left, top = max(0, int(view[0]) - 1), max(0, int(view[1]) - 1)
    right, bottom = min(columns, int(view[2]) + 2), min(rows, int(view[3]) + 2)
    part = image[top:bottom, left:right]
    factor = (right - left) // (2 * width)
    if factor > 1:
        part = np.asarray(Image.fromarray(part).reduce(factor))
    return part, (left, top, right, bottom)


def mute(image: Pixels) -> Pixels:
    """Less colour and less light."""
    grey = image.mean(-1, keepdims=True)
    muted: npt.NDArray[np.floating[Any]] = 0.82 * (0.45 * image + 0.55 * grey)
    return muted.astype(np.uint8)


def view_around(
    boxes: Sequence[Box],
    points: Points,
    size: tuple[int, int],
    least: float = 0.25,
) -> Box:
    """The part of an image of (height, width) that holds boxes and most of the attention on points.

    It has the image's proportions and at least this share of its width.
    """
    height, width = size
    corners = [(box[0], box[1]) for box in boxes] + [(box[2], box[3]) for box in boxes]
    reach = np.array(corners or [(width / 2, height / 2)], float)
    low, high = reach.min(0), reach.max(0)
    if points:
        places, weights = np.array(points)[:, :2], np.array(points)[:, 2]
        for axis in (0, 1):
            order = places[:, axis].argsort()
            share = weights[order].cumsum() / max(weights.sum(), 1e-9)
            along = places[order, axis]
            low[axis] = min(low[axis], along[np.searchsorted(share, 0.01)])
            last = min(np.searchsorted(share, 0.99), len(along) - 1)
            high[axis] = max(high[axis], along[last])
    side = np.array([width, height], float)
    share = float(np.clip((1.12 * (high - low) / side).max(), least, 1.0))
    corner = np.clip((low + high) / 2 - share * side / 2, 0, (1 - share) * side)
    return (*corner.tolist(), *(corner + share * side).tolist())


def draw_points(axes: Axes, points: Points, norm: Normalize) -> None:
    """Sampling points: colour and size by weight, shape by level, the weightiest on top."""
    if not points:
        return
    drawn = sorted(points, key=lambda point: point[2])
    weights = [float(norm(point[2])) for point in drawn]
    marks = PathCollection(
        [_path(MARKERS[int(point[3]) % len(MARKERS)]) for point in drawn],
        [28 + 115 * weight for weight in weights],
        offsets=[(point[0], point[1]) for point in drawn],
        offset_transform=axes.transData,
        facecolors=[WEIGHTS(weight) for weight in weights],
        edgecolors=INK,
        linewidths=1.3,
        zorder=3,
        path_effects=[withStroke(linewidth=2.8, foreground=(1, 1, 1, 0.55))],
    )
    marks.set_transform(IdentityTransform())
    axes.add_collection(marks, autolim=False)


def _path(marker: str) -> Path:
    style = MarkerStyle(marker)
    return style.get_path().transformed(style.get_transform())


def draw_box(axes: Axes, box: Box, colour: Any, dashed: bool = False, width: float = 2.6) -> None:
    """A box, with a dark outline."""
    corner, sides = (box[0], box[1]), (box[2] - box[0], box[3] - box[1])
    axes.add_patch(
        Rectangle(
            corner,
            *sides,
            fill=False,
            edgecolor=colour,
            linewidth=width,
            linestyle=(0, (4, 2.5)) if dashed else "solid",
            path_effects=[withStroke(linewidth=2 * width, foreground=INK)],
            zorder=2,
        )
    )


def draw_reference(axes: Axes, reference: Box | None) -> None:
    """The point or box that a layer starts from."""
    if reference is None:
        return
    if len(reference) == 4:
        draw_box(axes, reference, LIGHT, dashed=True, width=2.0)
    x, y = centre(reference)
    axes.plot(x, y, "+", color=LIGHT, ms=19, mew=3, zorder=4, path_effects=_DARK)


def centre(place: Box) -> tuple[float, float]:
    """Of a point or a box."""
    if len(place) == 2:
        return place[0], place[1]
    return (place[0] + place[2]) / 2, (place[1] + place[3]) / 2


def draw_numbers(axes: Axes, objects: Sequence[Mapping[str, Any]]) -> None:
    """Every object's box in its class's colour, and its number where no other one is."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    radius = 15 * (right - left) / axes.bbox.width
    taken: list[tuple[float, float]] = []
    for seen in reversed(objects):
        draw_box(axes, seen["box"], COLOURS[seen["label"] % len(COLOURS)], width=2.4)
    for number, seen in enumerate(objects, start=1):
        x0, y0, x1, y1 = seen["box"]
        middle = ((x0 + x1) / 2, (y0 + y1) / 2)
        places = [(x0, y0), (x1, y0), (x0, y1), (x1, y1), middle, (middle[0], y0), (middle[0], y1)]
        inside = [
            (
                float(np.clip(x, left + radius, right - radius)),
                float(np.clip(y, top + radius, bottom - radius)),
            )
            for x, y in places
        ]
        place = max(inside, key=lambda place: min(_room(place, taken), 2.1 * radius))
        taken.append(place)
        axes.text(
            *place,
            str(number),
            color="white",
            fontsize=12.5,
            fontweight="bold",
            ha="center",
            va="center_baseline",
            zorder=6,
            bbox={
                "boxstyle": "circle,pad=0.22" if number < 10 else "round,pad=0.2,rounding_size=0.6",
                "facecolor": COLOURS[seen["label"] % len(COLOURS)],
                "edgecolor": "white",
                "linewidth": 1.4,
            },
        )


def _room(place: tuple[float, float], taken: Sequence[tuple[float, float]]) -> float:
    """How far the nearest number is."""
    return min((float(np.hypot(place[0] - x, place[1] - y)) for x, y in taken), default=np.inf)


def layer_colour(index: int, count: int) -> Any:
    """Of a decoder layer's box: from violet to yellow."""
    return WEIGHTS(index / max(1, count - 1))


def salience(image: Pixels, norms: npt.NDArray[np.floating[Any]]) -> Pixels:
    """A gradient map over a grey image; its largest thousandth shines alike.

    Args:
        image: [h, w, 3], of the map's size.
        norms: [h, w], at least 0.
    """
    top = float(np.quantile(norms, 0.999)) or 1.0
    share = ((norms / top).clip(0, 1) ** 0.7)[..., None]
    grey = image.mean(-1, keepdims=True) * 0.55
    blended = (1 - share) * grey + share * 255 * SALIENCE(0.35 + 0.65 * share[..., 0])[..., :3]
    return blended.clip(0, 255).astype(np.uint8)
