import json
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from PIL import Image

from saccade.analysis.curves import as_record, draw_sparsity
from saccade.analysis.sparsity import LayerSparsity

CROSS = "decoder.layers.{}.cross_attention"


def test_a_record_has_what_each_layer_has() -> None:
    layers = [
        LayerSparsity(CROSS.format(0), -2.0, 16.0, -0.125, spread=1.5, inside=0.7),
        LayerSparsity("decoder.layers.0.self_attention", -1.0, 10.0, -0.1),
    ]
    assert as_record(layers) == {
        "sparsity/decoder.layers.0.cross_attention": -0.125,
        "spread/decoder.layers.0.cross_attention": 1.5,
        "inside/decoder.layers.0.cross_attention": 0.7,
        "sparsity/decoder.layers.0.self_attention": -0.1,
    }


def test_the_curves_are_drawn_one_picture_per_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    plot = Axes.plot

    def watched(axes: Axes, xs: list[float], ys: list[float], *rest: object, **options: object):
        drawn.append((xs, ys, options["label"]))
        return plot(axes, xs, ys, *rest, **options)

    monkeypatch.setattr(Axes, "plot", watched)
    lines = [{"epoch": 1, "AP": 0.1}]
    for epoch in (2, 3):
        layers = [
            LayerSparsity(CROSS.format(i), -2.0, 10.0, -0.2 * epoch * (i + 1)) for i in (0, 10)
        ]
        layers.append(LayerSparsity("encoder.layers.0.attention", -1.0, 10.0, -0.1))
        lines.append({"epoch": epoch, **as_record(layers)})
    (tmp_path / "evaluations.jsonl").write_text("\n".join(map(json.dumps, lines)))
    draw_sparsity(tmp_path / "evaluations.jsonl", tmp_path / "sparsity.png")
    assert drawn == [
        ([2, 3], [-0.4, pytest.approx(-0.6)], "layer 1"),
        ([2, 3], [pytest.approx(-4.4), pytest.approx(-6.6)], "layer 11"),
        ([2, 3], [-0.1, -0.1], "layer 1"),
    ]
    with Image.open(tmp_path / "sparsity.png") as saved:
        assert saved.size == (1350, 600)


def test_a_run_without_sparsity_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evaluations.jsonl").write_text('{"epoch": 1, "AP": 0.1}\n')
    with pytest.raises(ValueError, match="holds no sparsity: record"):
        draw_sparsity(tmp_path / "evaluations.jsonl", tmp_path / "sparsity.png")


def test_an_epoch_that_is_evaluated_twice_is_drawn_over_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(Axes, "plot", lambda axes, xs, *rest, **options: drawn.append(xs))
    monkeypatch.setattr(Axes, "legend", lambda axes, **options: None)
    record = as_record([LayerSparsity("encoder.layers.0.attention", -1.0, 10.0, -0.1)])
    lines = [{"epoch": 0, "step": step, **record} for step in (40, 80)]
    (tmp_path / "evaluations.jsonl").write_text("\n".join(map(json.dumps, lines)))
    draw_sparsity(tmp_path / "evaluations.jsonl", tmp_path / "sparsity.png")
    assert drawn == [[40, 80]]
