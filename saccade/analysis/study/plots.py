"""The pictures of a study's report."""

import re
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from saccade.analysis.study.files import replacing
from saccade.analysis.study.results import RowResult

Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""Epochs [N], and a value of each run at each of them [runs, N]."""
LONG = ("#555555", "#9a9a9a")
"""Rows that train longer than the others."""
WIDTH = 9.0
"""Of a picture, in inches."""
DPI = 150


def mean_curve(result: RowResult, name: str) -> Curve | None:
    """A figure of each run that counts over the epochs; None if no evaluation has it.

    The epochs are those of the run that was evaluated most often, from the first evaluation of all
    runs as far as all have come; between evaluations the values of the others are interpolated.
    None also where the runs have no epochs in common.
    """
    curves = [
        (
            np.array([record["epochs"] for record in run.records if name in record]),
            np.array([record[name] for record in run.records if name in record]),
        )
        for run in result.counted
    ]
    curves = [curve for curve in curves if len(curve[0])]
    if not curves:
        return None
    epochs = max((curve[0] for curve in curves), key=len)
    first, last = max(curve[0][0] for curve in curves), min(curve[0][-1] for curve in curves)
    epochs = epochs[(epochs >= first) & (epochs <= last)]
    if not len(epochs):
        return None
    return epochs, np.stack([np.interp(epochs, *curve) for curve in curves])


def draw_curves(results: Sequence[RowResult], file: Path) -> None:
    """AP against epochs: the mean over seeds, from the worst to the best one shaded."""
    figure, (axes,) = _figure(5.0)
    long = any(result.row.times > 1 for result in results)
    colours = _colours(results)
    for result in results:
        colour = colours[result.row.key]
        curve = mean_curve(result, "AP")
        if curve is None:
            continue
        epochs, values = curve[0], 100 * curve[1].clip(min=0)
        ended = result.state == "done"
        label = result.row.label + ("" if ended else f" ({result.state})")
        axes.plot(
            epochs,
            values.mean(0),
            marker="o",
            markersize=3,
            linestyle="-" if ended else ":",
            color=colour,
            label=label,
        )
        if len(values) > 1:
            axes.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.15, lw=0)
        if result.row.times > 1 and ended:
            axes.axhline(values.mean(0)[-1], color=colour, lw=0.8, linestyle="--", zorder=0)
    axes.set(xlabel="epochs", ylabel="AP, %")
    axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
    if long:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("epochs (logarithmic)")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, file)


def draw_finals(results: Sequence[RowResult], file: Path) -> None:
    """Final AP of all and of small objects; bars are means over seeds, whiskers reach to the
    worst and the best."""
    shown = [result for result in results if result.finals("AP")]
    colours = _colours(results)
    figure, panels = _figure(0.42 * len(shown) + 1.2, columns=2)
    for panel, (name, title) in zip(
        panels, (("AP", "AP, %"), ("APs", "AP of small objects, %")), strict=True
    ):
        for height, result in enumerate(shown):
            values = 100 * np.array(result.finals(name))
            if not len(values):
                continue
            mean = values.mean()
            reach = [[mean - values.min()], [values.max() - mean]]
            panel.barh(height, mean, color=colours[result.row.key], alpha=0.85)
            if len(values) > 1:
                panel.errorbar(mean, height, xerr=reach, color="black", capsize=3, lw=1)
            panel.annotate(
                f"{mean:.1f}",
                (values.max(), height),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
        panel.set(xlabel=title, yticks=range(len(shown)), ylim=(len(shown) - 0.4, -0.6))
        panel.margins(x=0.15)
        # So that noise around zero does not look like a difference.
        panel.set_xlim(0, max(1.0, panel.get_xlim()[1]))
        panel.grid(axis="y", visible=False)
    panels[0].set_yticklabels([result.row.label for result in shown])
    panels[1].set_yticklabels([])
    _save(figure, file)


def draw_layers(results: Sequence[RowResult], kind: str, file: Path) -> bool:
    """Sparsity of one kind of attention over the epochs, a panel per detector, a line per layer.

    Args:
        results: Rows without this kind are left out.
        kind: As modules name it: "cross_attention" in the decoder, "attention" in the encoder.
        file: The picture.

    Returns:
        Whether there is any: else nothing is drawn.
    """
    panels = [(result, names) for result in results if (names := _layers(result, kind))]
    if not panels:
        return False
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = _figure(2.6 * rows, rows, columns)
    for axes, (result, names) in zip(grid, panels, strict=False):
        for position, name in enumerate(names):
            curve = mean_curve(result, name)
            if curve is None:
                continue
            colour = colormaps["viridis"](0.85 * position / max(1, len(names) - 1))
            label = f"layer {position + 1}"
            axes.plot(curve[0], curve[1].mean(0), color=colour, label=label)
        axes.set_title(result.row.label, fontsize=10)
        axes.tick_params(labelsize=8)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[max(0, len(panels) - columns) : len(panels)]:
        axes.set_xlabel("epochs")
    figure.supylabel("sparsity, nats per key", fontsize=10)
    grid[0].legend(frameon=False, fontsize=8)
    _save(figure, file)
    return True


def _layers(result: RowResult, kind: str) -> list[str]:
    pattern = re.compile(rf"sparsity/\w+\.layers\.(\d+)\.{kind}")
    numbers = {
        name: int(found[1])
        for run in result.counted
        for record in run.records
        for name in record
        if (found := pattern.fullmatch(name))
    }
    return sorted(numbers, key=lambda name: numbers[name])


def _figure(height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Panels, row after row."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _save(figure: Figure, file: Path) -> None:
    with replacing(file) as partial:
        figure.savefig(partial, dpi=DPI, format="png")


def _colours(results: Sequence[RowResult]) -> dict[str, Any]:
    """By row; greys for those that train longer, so that the others stand out."""
    bright = cycle(colormaps["tab10"](index) for index in range(10))
    grey = cycle(LONG)
    return {
        result.row.key: next(grey) if result.row.times > 1 else next(bright) for result in results
    }
