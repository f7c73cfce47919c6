"""Charts of plain HTML: they follow the page's colours and keep their letters on a telephone."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from saccade.doctor.tables import Integers

MOST_ROWS = 24
"""Of a bar chart; of more, the first and the last ones are shown."""

STYLE = """
.bars { display: grid; grid-template-columns: minmax(4rem, auto) 1fr; gap: .3rem .7rem;
        align-items: center; font-size: .9rem; margin: .8rem 0; }
.bars .name { text-align: right; overflow-wrap: anywhere; }
.bars .gap { grid-column: 1 / -1; color: var(--quiet); text-align: center; }
.bar { display: flex; align-items: center; gap: .4rem; line-height: 1.25; }
.bar i { display: block; height: .7rem; min-width: 1px; border-radius: 2px; }
.bar span { color: var(--quiet); font-size: .8rem; font-variant-numeric: tabular-nums; }
.split-0 { background: var(--first); } .split-1 { background: var(--second); }
.split-2 { background: var(--third); } .split-3 { background: var(--quiet); }
.chart { margin: 1rem 0 1.2rem; }
.tallest { font-size: .8rem; color: var(--quiet); border-bottom: 1px dotted var(--line);
           font-variant-numeric: tabular-nums; }
.plot { position: relative; height: 11rem; display: flex; align-items: flex-end;
        border-bottom: 1px solid var(--quiet); }
.plot i { flex: 1; background: var(--first); margin-right: 1px; border-radius: 2px 2px 0 0; }
.plot i.over { background: var(--bad); }
.plot b { position: absolute; top: 0; bottom: 0; width: 0; border-left: 2px dashed; }
.ticks { position: relative; height: 1.3rem; font-size: .8rem; color: var(--quiet); }
.ticks span { position: absolute; transform: translateX(-50%); }
.axis { text-align: center; font-size: .85rem; color: var(--quiet); }
.legend { list-style: none; padding: 0; margin: .5rem 0 0; font-size: .85rem;
          display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
.legend i { display: inline-block; width: .8rem; height: .7rem; border-radius: 2px;
            margin-right: .35rem; vertical-align: -1px; }
.legend b { display: inline-block; height: .9rem; border-left: 2px dashed; margin-right: .5rem;
            vertical-align: -2px; }
.mark-0 { border-color: var(--bad) !important; }
.mark-1 { border-color: var(--fair) !important; }
.mark-2 { border-color: var(--third) !important; }
.mark-3 { border-color: var(--quiet) !important; }
"""


@dataclass(frozen=True)
class Mark:
    """A line across a histogram."""

    value: float
    text: str


def bar_chart(names: Sequence[str], counts: Sequence[Integers], series: Sequence[str]) -> str:
    """A row per name, and in it a bar per series.

    Args:
        names: In the order in which they are shown.
        counts: Of each series, one number per name.
        series: What they are called.
    """
    largest = max((int(each.max()) for each in counts if len(each)), default=0) or 1
    shown = list(range(len(names)))
    if len(names) > MOST_ROWS:
        shown = [*shown[: MOST_ROWS // 2], -1, *shown[-MOST_ROWS // 2 :]]
    rows = []
    for index in shown:
        if index < 0:
            rows.append(f'<div class="gap">… {len(names) - MOST_ROWS} more …</div>')
            continue
        bars = "".join(
            f'<div class="bar"><i class="split-{min(number, 3)}" '
            f'style="width:{80 * int(each[index]) / largest:.2f}%"></i>'
            f"<span>{int(each[index]):,}</span></div>"
            for number, each in enumerate(counts)
        )
        rows.append(f'<div class="name">{escape(names[index])}</div><div>{bars}</div>')
    legend = "".join(
        f'<li><i class="split-{min(number, 3)}"></i>{escape(each)}</li>'
        for number, each in enumerate(series)
    )
    return f'<ul class="legend">{legend}</ul><div class="bars">{"".join(rows)}</div>'


def histogram(
    counts: Integers,
    limits: tuple[float, float],
    ticks: Sequence[tuple[float, str]],
    marks: Sequence[Mark],
    axis: str,
    over: float | None = None,
) -> str:
    """Columns of equal width.

    Args:
        counts: Of each column.
        limits: Where the first begins and the last ends.
        ticks: Values of the axis, and what is written there.
        marks: Lines; those beyond the limits are told in the legend alone.
        axis: What is counted along it.
        over: From this value on columns are red.
    """
    low, high = limits
    edges = np.linspace(low, high, len(counts) + 1)
    tallest = max(1, int(counts.max(initial=0)))

    def place(value: float) -> float:
        return 100 * (value - low) / (high - low)

    columns = "".join(
        f"<i{' class=over' if over is not None and edge >= over else ''} "
        f'style="height:{_height(int(count), tallest):.2f}%" title="{int(count):,}"></i>'
        for count, edge in zip(counts, edges[:-1], strict=True)
    )
    lines = "".join(
        f'<b class="mark-{min(number, 3)}" style="left:{place(mark.value):.2f}%"></b>'
        for number, mark in enumerate(marks)
        if low <= mark.value <= high
    )
    written = "".join(
        f'<span style="left:{min(97.0, max(3.0, place(value))):.2f}%">{escape(text)}</span>'
        for value, text in ticks
    )
    legend = "".join(
        f'<li><b class="mark-{min(number, 3)}"></b>{escape(mark.text)}</li>'
        for number, mark in enumerate(marks)
    )
    return (
        f'<div class="chart"><div class="tallest">{tallest:,}</div>'
        f'<div class="plot">{columns}{lines}</div>'
        f'<div class="ticks">{written}</div><div class="axis">{escape(axis)}</div>'
        f'<ul class="legend">{legend}</ul></div>'
    )


def _height(count: int, tallest: int) -> float:
    """In percent; whatever is there is seen."""
    return 0.0 if not count else max(1.5, 100 * count / tallest)
