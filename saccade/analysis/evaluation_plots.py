"""The plots of an evaluation's report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from saccade.evaluation.calibration import Calibration
from saccade.evaluation.matched import Integers, Matched
from saccade.evaluation.precision_recall import RECALLS, Cut, interpolated_precision

WIDTH = 9.0
"""Of a picture, in inches."""
DPI = 130
MOST_CURVES = 10
"""Classes with a precision-recall curve of their own colour; the others are grey."""
MOST_NUMBERS = 16
"""Classes up to which the confusion matrix shows its counts."""
BLUE, RED, GREY = "#1f77b4", "#d1105a", "#9aa3ad"


def draw_precision_recall(matched: Matched, names: Sequence[str], file: Path) -> None:
    """Precision against recall at the matching's IoU, one curve per class with objects."""
    figure, (axes,) = panels(4.2)
    kept = ~matched.ignored
    categories, right = matched.found.categories[kept], matched.right[kept]
    counts = matched.objects.count(len(names))
    shown = np.argsort(-counts, kind="stable")
    shown = shown[counts[shown] > 0]
    curves = [interpolated_precision(right[categories == k], int(counts[k])) for k in shown]
    for rank, (k, curve) in enumerate(zip(shown, curves, strict=True)):
        named = rank < MOST_CURVES
        axes.plot(
            100 * RECALLS,
            100 * curve,
            color=colormaps["tab10"](rank) if named else GREY,
            lw=1.6 if named else 0.6,
            zorder=2 if named else 1,
            label=f"{_literal(names[k])}: AP50 {100 * curve.mean():.1f}" if named else None,
        )
    if len(curves) > 1:
        mean = np.mean(curves, 0)
        label = f"mean of {len(curves)} classes: {100 * mean.mean():.1f}"
        axes.plot(100 * RECALLS, 100 * mean, color="black", lw=2.2, label=label, zorder=3)
    axes.set(xlabel="recall, %", ylabel="precision, %", xlim=(0, 101), ylim=(0, 101))
    if curves:
        legend(axes)
    figure.savefig(file, dpi=DPI)


def draw_thresholds(matched: Matched, cut: Cut, file: Path) -> None:
    """Precision, recall and F1 of all classes together over the score at which one cuts."""
    figure, (axes,) = panels(3.4)
    kept = ~matched.ignored
    hits = matched.right[kept].cumsum()
    scores = matched.found.scores[kept]
    told = np.arange(1, len(scores) + 1)
    num_objects = int((~matched.objects.crowds).sum())
    for label, values, colour in (
        ("precision", hits / told, BLUE),
        ("recall", hits / num_objects, "#ff7f0e"),
        ("F1", 2 * hits / (told + num_objects), "black"),
    ):
        axes.plot(scores, 100 * values, color=colour, label=label, lw=1.8)
    axes.axvline(cut.score, color=GREY, lw=1, linestyle="--", label=f"{cut.score:.2f}: highest F1")
    axes.set(xlabel="lowest score shown", ylabel="%", xlim=(0, 1), ylim=(0, 101))
    legend(axes)
    figure.savefig(file, dpi=DPI)


def draw_gains(gains: Mapping[str, float], file: Path) -> None:
    """AP50 that perfecting each kind of error would add, as bars."""
    figure, (axes,) = panels(0.36 * len(gains) + 0.7)
    for height, gain in enumerate(gains.values()):
        axes.barh(height, 100 * gain, color=RED, alpha=0.85)
        axes.annotate(
            f"{100 * gain:.1f}",
            (100 * gain, height),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set(xlabel="points of AP50 to gain", yticks=range(len(gains)), yticklabels=list(gains))
    axes.set_ylim(len(gains) - 0.4, -0.6)
    axes.set_xlim(0, max(1.0, 112 * max(gains.values())))
    axes.grid(axis="y", visible=False)
    figure.savefig(file, dpi=DPI)


def draw_confusion(counts: Integers, names: Sequence[str], file: Path) -> None:
    """The confusion matrix: shares of each row as colour, counts as numbers while they fit."""
    few = len(names) <= MOST_NUMBERS
    side = min(WIDTH, 1.6 + (0.62 if few else 0.11) * (len(names) + 1))
    figure = Figure(figsize=(min(WIDTH, side + 1.2), side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    # Nothing is never found as nothing.
    shares = np.ma.masked_array(shares, np.zeros_like(counts, bool))
    shares[-1, -1] = np.ma.masked
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 9 if few else max(3.5, 8 - len(names) / 20)
    places, shown = range(len(names) + 1), [*map(_literal, names)]
    axes.set_xticks(places, [*shown, "(missed)"], rotation=45, ha="right", fontsize=size)
    axes.set_yticks(places, [*shown, "(nothing)"], fontsize=size)
    axes.set(xlabel="found as", ylabel="marked as")
    if few:
        for row, column in np.ndindex(*counts.shape):
            if counts[row, column]:
                colour = "white" if shares[row, column] > 0.55 else "#1c2430"
                text = str(counts[row, column])
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    bar = figure.colorbar(picture, shrink=0.7)
    bar.set_label("share of the row", fontsize=9)
    figure.savefig(file, dpi=DPI)


def draw_calibration(result: Calibration, file: Path) -> None:
    """The share that is right against the score, and below how many detections stand behind it."""
    figure, (above, below) = panels(4.4, rows=2, ratios=(3.0, 1.0))
    above.plot((0, 1), (0, 100), color=GREY, lw=1, linestyle="--", label="ideal")
    filled = result.counts > 0
    width = result.edges[1] - result.edges[0]
    centres = result.edges[:-1] + width / 2
    bars = above.bar(centres[filled], 100 * result.right[filled], 0.92 * width, color=BLUE)
    bars.set_label("right, %")
    above.plot(
        centres[filled],
        100 * result.scores[filled],
        "_",
        color=RED,
        markersize=22,
        markeredgewidth=2,
        label="mean score, %",
    )
    above.set(xlim=(0, 1), ylim=(0, 101), ylabel="%", xticklabels=[])
    legend(above)
    below.bar(centres, result.counts, 0.92 * width, color=GREY)
    below.set(xlim=(0, 1), xlabel="score", ylabel="detections", yscale="symlog")
    figure.savefig(file, dpi=DPI)


def panels(
    height: float, rows: int = 1, ratios: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure with panels one below the other, `height` inches high.

    Args:
        height: Of all together.
        rows: How many.
        ratios: Of their heights.
    """
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    below_each_other = list(figure.subplots(rows, 1, squeeze=False, height_ratios=ratios).ravel())
    for axes in below_each_other:
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, below_each_other


def legend(axes: Axes) -> None:
    """A legend at the right of the panel, where it hides nothing."""
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _literal(name: str) -> str:
    """A class's name, in which Matplotlib sees no formula."""
    return name.replace("$", r"\$")
