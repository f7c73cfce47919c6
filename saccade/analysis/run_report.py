"""The report that a training run leaves: how it went, and what its detector does wrong."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from saccade.analysis.evaluation_plots import BLUE, DPI, GREY, RED, legend, panels
from saccade.analysis.study.document import Block, Heading, Paragraph, Picture
from saccade.evaluation.report import percent
from saccade.training.records import EvaluationRecords

TERMS = {"loss_ce": "class", "loss_bbox": "box, L1", "loss_giou": "box, GIoU"}
"""Of the last decoder layer, unweighted."""
COLOURS = (BLUE, "#e07b00", "#0b7a3b")
SMOOTHED = 40
"""Points that a loss curve keeps: each the mean of what was logged between."""


def training_blocks(run: Path, place: Path) -> list[Block]:
    """How a run went: AP, losses and learning rate, over its time.

    Args:
        run: A run folder; without ``evaluations.jsonl`` there is nothing to say.
        place: Where pictures are put.
    """
    records = EvaluationRecords(run / "evaluations.jsonl").read()
    if not records:
        return []
    logged = logged_steps(run)
    _draw(records, logged, place / "training.png")
    best = max(records, key=lambda record: record["AP"])
    last = records[-1]
    sentence = (
        f"{last['step']:.0f} steps, {last['epoch']:.0f} epochs, {last['minutes']:.1f} minutes of "
        f"training, evaluations not counted. The best of {len(records)} evaluations on the "
        f"validation images was after {best['step']:.0f} steps: AP {percent(best['AP'])}, AP50 "
        f"{percent(best['AP50'])}; those weights are in best/. The last one: AP "
        f"{percent(last['AP'])}, AP50 {percent(last['AP50'])}; they are in last/."
    )
    caption = "Validation AP, and what was logged while training."
    if logged:
        caption += " Losses are those of the last decoder layer before their weights, averaged."
    return [
        Heading("How it was trained"),
        Paragraph(sentence),
        Picture(place / "training.png", caption),
    ]


def logged_steps(run: Path) -> list[dict[str, float]]:
    """What the CSV files of all sessions hold of training steps, by rising step.

    A session that resumed an earlier moment replaces what the session before did after it.
    """
    rows: list[dict[str, float]] = []
    files = sorted(run.glob("csv/session-*/metrics.csv"), key=_session)
    for file in files:
        with file.open(newline="", encoding="utf-8") as stream:
            new = [
                {name: float(value) for name, value in row.items() if value}
                for row in csv.DictReader(stream)
                if row.get("loss") and row.get("step")
            ]
        if new:
            rows = [row for row in rows if row["step"] < new[0]["step"]] + new
    return rows


def _draw(
    records: Sequence[dict[str, float]], logged: Sequence[dict[str, float]], file: Path
) -> None:
    figure, axes = panels(2.6 * (3 if logged else 1), rows=3 if logged else 1)
    steps = [record["step"] for record in records]
    for name, colour in (("AP50", GREY), ("AP75", "#c9a0b4"), ("AP", RED)):
        # COCO's -1, where there is nothing to find, is no percentage.
        values = [100 * record[name] if record[name] >= 0 else math.nan for record in records]
        axes[0].plot(steps, values, "o-", color=colour, markersize=3, label=name)
    best = max(records, key=lambda record: record["AP"])
    axes[0].plot(best["step"], 100 * best["AP"], "o", color=RED, markersize=8, mfc="none")
    axes[0].set(ylabel="%, validation", ylim=(0, None))
    if logged:
        for (name, label), colour in zip(TERMS.items(), COLOURS, strict=True):
            points = _smoothed(logged, name)
            axes[1].plot(*zip(*points, strict=True), color=colour, label=label)
        axes[1].set(ylabel="loss", ylim=(0, None))
        rates = [(row["step"], row["learning_rate"]) for row in logged]
        axes[2].plot(*zip(*rates, strict=True), color=BLUE, label="learning rate")
        axes[2].set(ylabel="learning rate", ylim=(0, None))
    for each in axes:
        each.set_xlim(0, max(steps) + 1)
        each.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(each)
    axes[-1].set_xlabel("steps")
    figure.savefig(file, dpi=DPI)


def _smoothed(logged: Sequence[dict[str, float]], name: str) -> list[tuple[float, float]]:
    """(step, mean) of neighbouring values, not more than `SMOOTHED` of them."""
    size = -(-len(logged) // SMOOTHED)
    groups = [logged[start : start + size] for start in range(0, len(logged), size)]
    return [
        (
            sum(row["step"] for row in group) / len(group),
            sum(row[name] for row in group) / len(group),
        )
        for group in groups
    ]


def _session(file: Path) -> int:
    return int(file.parent.name.removeprefix("session-"))
