"""Sparsity over the epochs, layer by layer: the figure of TSP's section 3.2."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from saccade.analysis.sparsity import LayerSparsity

MEASURES = ("sparsity", "spread", "inside")


def as_record(layers: Iterable[LayerSparsity]) -> dict[str, float]:
    """Numbers for a line of ``evaluations.jsonl``.

    >>> as_record([LayerSparsity("encoder.layers.0.attention", -1.5, 10.0, -0.15)])
    {'sparsity/encoder.layers.0.attention': -0.15}
    """
    return {
        f"{measure}/{layer.name}": getattr(layer, measure)
        for layer in layers
        for measure in MEASURES
        if getattr(layer, measure) is not None
    }


def draw_sparsity(evaluations: Path, file: Path) -> None:
    """Plot the sparsity of each layer over the epochs, a picture for each kind of layer.

    Where an epoch was evaluated more than once, over the steps.

    Args:
        evaluations: A run's ``evaluations.jsonl`` whose lines hold what `as_record` returns.
        file: The picture.

    Raises:
        ValueError: If no line holds a sparsity.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = [json.loads(line) for line in evaluations.read_text("utf-8").splitlines()]
    names = sorted(
        {name for record in records for name in record if name.startswith("sparsity/")},
        key=_layer_number,
    )
    if not names:
        raise ValueError(
            f"{evaluations} holds no sparsity: record saccade.analysis.curves.as_record at each "
            "evaluation of the run."
        )
    epochs = [record["epoch"] for record in records]
    time = "epoch" if len(set(epochs)) == len(epochs) else "step"
    kinds = sorted({_kind(name) for name in names})
    figure = Figure(figsize=(4.5 * len(kinds), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        layers = [name for name in names if _kind(name) == kind]
        for position, name in enumerate(layers):
            present = [record for record in records if name in record]
            axes.plot(
                [record[time] for record in present],
                [record[name] for record in present],
                "o-",
                markersize=3,
                color=colormaps["viridis"](position / max(1, len(layers))),
                label=f"layer {_layer_number(name) + 1}",
            )
        axes.set(title=kind, xlabel=time, ylabel="sparsity, nats per key")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(file, dpi=150)


def _kind(name: str) -> str:
    """ "decoder cross attention" of "sparsity/decoder.layers.0.cross_attention"."""
    return re.sub(r"\W+(layers\W\d+\W+)?|_", " ", name.removeprefix("sparsity/"))


def _layer_number(name: str) -> int:
    found = re.search(r"\.(\d+)\.", name)
    return int(found[1]) if found else 0
