"""The doctor's report: one HTML file, readable on a telephone, by day and by night."""

import math
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from saccade.analysis.study.document import Block, Code, Heading, Markup, Paragraph, Table, to_html
from saccade.doctor import charts
from saccade.doctor.charts import Mark, bar_chart, histogram
from saccade.doctor.crowding import most_found
from saccade.doctor.examination import Examination
from saccade.doctor.findings import TITLES, Finding, Severity, counted, worst_first
from saccade.doctor.geometry import evaluation_sides, strides, typical_size
from saccade.doctor.size_checks import INVISIBLE, object_sides
from saccade.doctor.tables import SplitTable
from saccade.doctor.thumbnails import picture

NUM_COLUMNS = 36

STYLE = (
    """
:root { color-scheme: light dark; --ground: #fff; --text: #1c2430; --quiet: #667280;
        --card: #f5f7f9; --line: #dfe4ea; --first: #2b7bba; --second: #e39b37;
        --third: #3f9c74; --bad: #c9184a; --fair: #b26a00; --good: #55708c; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14181d; --text: #e4e8ed; --quiet: #98a4b1; --card: #1e242b;
          --line: #333c46; --first: #5aa6e0; --second: #e8ad58; --third: #5cbf94;
          --bad: #ff5c8a; --fair: #f0b14f; --good: #8fb0cf; }
}
body { background: var(--ground); color: var(--text); margin: 1.5rem auto; padding: 0 1rem; }
h1 { overflow-wrap: anywhere; }
th, td { border-color: var(--line); }
td { white-space: nowrap; }
th { overflow-wrap: normal; vertical-align: bottom; }
.finding code { white-space: nowrap; font-size: .86em; background: var(--ground);
                padding: .05rem .25rem; border-radius: 3px; }
@media (max-width: 30rem) { th, td { padding: .35rem .4rem; } }
table.ours th { background: var(--card); }
pre { background: var(--card); white-space: pre-wrap; overflow-wrap: anywhere; }
figcaption, .note { color: var(--quiet); }
summary { color: var(--first); }
.verdict { font-size: 1.15rem; margin: .2rem 0 1.2rem; }
.finding { border-left: 5px solid var(--good); background: var(--card); border-radius: 4px;
           padding: .7rem .9rem; margin: .8rem 0; overflow-wrap: anywhere; }
.finding p { margin: 0; }
.finding.severity-2 { border-color: var(--bad); } .finding.severity-1 { border-color: var(--fair); }
.finding .topic { font-size: .75rem; text-transform: uppercase; letter-spacing: .05em;
                  color: var(--quiet); margin-bottom: .15rem; }
.finding .remedy { margin-top: .35rem; }
.finding .remedy::before { content: "→ "; color: var(--quiet); }
.pictures { display: grid; gap: .6rem; margin-top: .7rem;
            grid-template-columns: repeat(auto-fill, minmax(min(12.5rem, 100%), 1fr)); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 4px; }
.pictures.pairs { grid-template-columns: repeat(auto-fill, minmax(min(24rem, 100%), 1fr)); }
.pictures figure { margin: 0; }
.pictures img { width: 100%; display: block; border-radius: 3px; }
.pictures figcaption { font-size: .78rem; overflow-wrap: anywhere; margin-top: .2rem; }
"""
    + charts.STYLE
)


def write_report(file: Path, examination: Examination, command: str) -> None:
    """Write the report.

    Args:
        file: The HTML file; its folder exists.
        examination: What was found.
        command: What repeats it.

    Raises:
        OSError: If the file cannot be written.
    """
    blocks: list[Block] = [_verdict(examination), *_findings(examination.findings)]
    train = examination.tables.of_training
    blocks += _splits(examination)
    if train is not None and train.trained.any():
        blocks += [*_classes(examination), *_sizes(train, examination), *_crowding(examination)]
    blocks += [Heading("How this was found"), Code(command), Paragraph(_basis(examination))]
    page = to_html(f"{examination.name}: what the doctor says", blocks, STYLE)
    # Names of files need not be UTF-8.
    file.write_text(page, "utf-8", "backslashreplace")


def _verdict(examination: Examination) -> Block:
    said = verdict(examination.findings)
    return Markup(f'<p class="verdict">{escape(said)}</p>', said)


def verdict(findings: Sequence[Finding]) -> str:
    """How many findings there are of each kind, in a sentence."""
    hurting, looking = (
        sum(each.severity is severity for each in findings)
        for severity in (Severity.HURTS, Severity.LOOK)
    )
    if not hurting and not looking:
        return "Nothing here will hurt a run."
    things = []
    if hurting:
        things.append(
            f"{counted(hurting, 'thing')} here {'is' if hurting == 1 else 'are'} sure to hurt a run"
        )
    if looking:
        verb = "is" if looking == 1 else "are"
        things.append(f"{looking} {'more ' if hurting else ''}{verb} worth a look")
    return f"{' and '.join(things)}."


def _findings(findings: Sequence[Finding]) -> list[Block]:
    blocks: list[Block] = []
    last: Severity | None = None
    for finding in worst_first(findings):
        if finding.severity is not last:
            last = finding.severity
            blocks.append(Heading(TITLES[last]))
        blocks.append(Markup(_card(finding), str(finding)))
    return blocks


def _card(finding: Finding) -> str:
    remedy = f'<p class="remedy">{_text(finding.remedy)}.</p>' if finding.remedy else ""
    pictures = "".join(
        f"<figure>{picture(each)}<figcaption>{escape(each.file.name)}</figcaption></figure>"
        for each in finding.examples
    )
    if pictures:
        pictures = f'<div class="pictures">{pictures}</div>'
    pairs = "".join(
        f'<figure><div class="pair">{picture(one)}{picture(other)}</div><figcaption>'
        f"{escape(one.file.name)} and {escape(other.file.name)}</figcaption></figure>"
        for one, other in finding.pairs
    )
    if pairs:
        pairs = f'<div class="pictures pairs">{pairs}</div>'
    what = finding.what[:1].upper() + finding.what[1:]
    end = "" if what.endswith(".") else "."
    return (
        f'<section class="finding severity-{int(finding.severity)}">'
        f'<p class="topic">{escape(finding.topic)}</p><p>{_text(what)}{end}</p>'
        f"{remedy}{pictures}{pairs}</section>"
    )


def _text(sentence: str) -> str:
    """As HTML; options and their values are not broken into lines."""
    return re.sub(r"(--[\w.-]*\w(?: [\d.e-]*\d)?)", r"<code>\1</code>", escape(sentence))


def split_rows(tables: Sequence[SplitTable]) -> list[list[str]]:
    """Name, images, images without objects, objects, most of an image, usual size."""
    rows = []
    for table in tables:
        height, width = typical_size(table.sizes) if len(table.sizes) else (0, 0)
        rows.append(
            [
                table.name,
                f"{len(table.sizes):,}",
                f"{int((table.per_image == 0).sum()):,}",
                f"{int(table.trained.sum()):,}",
                f"{int(table.per_image.max(initial=0)):,}",
                f"{width} x {height}",
            ]
        )
    return rows


SPLIT_HEADER = ["split", "images", "without objects", "objects", "most per image", "usual size"]


def _splits(examination: Examination) -> list[Block]:
    rows = split_rows(list(examination.tables.splits.values()))
    return [Heading("Images and objects"), Table(SPLIT_HEADER, rows, "ours")]


def _classes(examination: Examination) -> list[Block]:
    tables = list(examination.tables.splits.values())
    order = np.argsort(-tables[0].per_class, kind="stable")
    names = [examination.tables.class_names[k] for k in order]
    counts = [table.per_class[order] for table in tables]
    chart = bar_chart(names, counts, [table.name for table in tables])
    return [Heading("Objects of each class"), Markup(chart, "")]


def _sizes(table: SplitTable, examination: Examination) -> list[Block]:
    config = examination.config.model
    sides = evaluation_sides(config)
    found = np.log2(object_sides(table, sides).clip(min=0.5))
    low, high = min(0.0, math.floor(found.min())), max(10.0, math.ceil(found.max()))
    counts, _ = np.histogram(found, NUM_COLUMNS, (low, high))
    levels = strides(config)
    quarter = INVISIBLE * levels[0]
    marks = [Mark(math.log2(quarter), f"{quarter:g} pixels: below, no token notices")]
    marks += [
        Mark(math.log2(stride), f"{stride}: a token of level {number}")
        for number, stride in enumerate(levels, start=1)
    ]
    ticks = [(float(power), f"{2**power}") for power in range(max(0, int(low)), int(high) + 1, 2)]
    axis = f"side of an object in pixels, resized to {sides.short} x {sides.longest}"
    chart = histogram(counts.astype(np.int64), (low, high), ticks, marks, axis)
    return [
        Heading("Sizes of objects beside the strides"),
        Markup(chart, ""),
        Paragraph(
            f"Of {table.name}; a side is the square root of the box's area, and each column is as "
            "much larger than the one before."
        ),
    ]


def _crowding(examination: Examination) -> list[Block]:
    tables = list(examination.tables.splits.values())
    each = np.concatenate([table.per_image for table in tables])
    queries = most_found(tables[0], examination.config.model)
    most = max(10, int(each.max()))
    reach = float(max(most, queries) if queries <= 4 * most else most) * 1.04
    counts, _ = np.histogram(each, min(NUM_COLUMNS, math.ceil(reach)), (0, reach))
    far = ", beyond the right edge" if queries > reach else ""
    marks = [Mark(queries, f"{queries:,}: as many as the detector can find{far}")]
    counted_ones = examination.config.max_detections
    if reach > counted_ones:
        marks.append(Mark(counted_ones, f"{counted_ones:,}: as many of a class as AP counts"))
    step = 10 ** math.floor(math.log10(reach))
    step = step / 2 if reach / step < 3 else step
    ticks = [(value * step, f"{value * step:g}") for value in range(math.floor(reach / step) + 1)]
    ticks = ticks[:: max(1, len(ticks) // 6)]
    chart = histogram(
        counts.astype(np.int64), (0.0, reach), ticks, marks, "objects on an image", queries
    )
    names = ", ".join(table.name for table in tables)
    return [Heading("Objects per image"), Markup(chart, ""), Paragraph(f"Images of {names}.")]


def _basis(examination: Examination) -> str:
    config = examination.config
    detector = f"{examination.detector}: input {config.model.input.short_side} x "
    return (
        f"Judged for {detector}{config.model.input.max_side} (shorter and longer side at most), "
        f"strides {', '.join(map(str, strides(config.model)))}, batches of {config.batch_size}, "
        f"{config.accumulate} of which make a step."
    )
