"""The page of an explanation: one HTML file, readable on a telephone, by day and by night."""

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from saccade.analysis.draw import Pixels
from saccade.analysis.explain_focus import TEXT, TITLE, Focus, focus_of
from saccade.analysis.explain_legend import to_html as legend_html
from saccade.analysis.explain_sheets import Explanation, Panel, Sheet
from saccade.analysis.study.document import Block, Code, Heading, Markup, Paragraph, Table, to_html

STYLE = """
:root { --quiet: #556070; --line: #dfe4ea; --bar: #2b7bba; --card: #f5f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --quiet: #9aa7b5; --line: #333c46; --bar: #5aa6e0; --card: #1e242b; }
}
body { max-width: 76rem; margin: 1.6rem auto; padding: 0 1rem; }
h1 { overflow-wrap: anywhere; }
h2 { margin: 2.6rem 0 .3rem; }
h2 + p { margin: 0 0 .8rem; color: var(--quiet); max-width: 48rem; }
.panels { display: grid; gap: .9rem; margin: .6rem 0;
          grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); }
.panels.one { grid-template-columns: minmax(0, 44rem); }
.panels figure { margin: 0; }
.panels img { width: 100%; display: block; border-radius: 4px; background: none; }
.panels figcaption { font-size: .88rem; margin: .3rem 0 0; }
.key { list-style: none; padding: 0; margin: .6rem 0; display: flex; flex-wrap: wrap;
       gap: .3rem 1.3rem; font-size: .88rem; color: var(--quiet); }
.key li { display: flex; align-items: center; gap: .4rem; margin: 0; }
.key span { font-variant-numeric: tabular-nums; }
.key svg { background: #8b97a6; border-radius: 3px; flex: none; }
.ramp { display: inline-block; width: 7rem; height: .8rem; border-radius: 2px; }
.wide { display: flex; flex-wrap: wrap; gap: 0 2rem; align-items: start; }
.wide .panels { flex: 1 1 30rem; }
.wide .scroll { flex: 0 1 auto; max-height: 34rem; overflow: auto; margin-top: .6rem; }
.focus { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .35rem .8rem;
         font-size: .9rem; align-items: center; margin: .8rem 0; max-width: 56rem; }
.focus .track { background: var(--card); border-radius: 3px; position: relative; }
.focus .track i { display: block; height: 1.35rem; background: var(--bar); border-radius: 3px;
                  min-width: 2px; opacity: .75; }
.focus .track span { position: absolute; left: .5rem; top: 0; line-height: 1.35rem;
                     font-size: .8rem; white-space: nowrap; font-variant-numeric: tabular-nums; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--card); }
@media (max-width: 30rem) { .focus { grid-template-columns: 1fr; gap: .1rem; }
                            .focus .track { margin-bottom: .4rem; } }
"""


def write_page(
    file: Path, explanation: Explanation, drawn: Sequence[Sheet], subject: str, command: str
) -> None:
    """Write the page, pictures included.

    Args:
        file: The HTML file; its folder exists.
        explanation: What is shown.
        drawn: Its sheets.
        subject: The image and the weights.
        command: What repeats it.

    Raises:
        OSError: If the file cannot be written.
    """
    blocks: list[Block] = [Paragraph(subject)]
    for sheet in drawn:
        title = sheet.title[:1].upper() + sheet.title[1:]
        blocks += [Heading(title), Paragraph(sheet.text), Markup(_sheet(sheet), title)]
    if explanation.sparsity:
        blocks += _focus(focus_of(explanation.sparsity))
    blocks += [Heading("How this was made"), Code(command)]
    file.write_text(to_html("Where the detector looked", blocks, STYLE), "utf-8")


def _sheet(sheet: Sheet) -> str:
    kind = "panels one" if sheet.columns == 1 else "panels"
    figures = "".join(_figure(panel, sheet.title) for panel in sheet.panels)
    body = f'<div class="{kind}">{figures}</div>'
    if sheet.rows:
        body = f'<div class="wide">{body}{_table(sheet.rows)}</div>'
    return legend_html(sheet.legend) + body


def _figure(panel: Panel, title: str) -> str:
    caption = f"<figcaption>{escape(panel.caption)}</figcaption>" if panel.caption else ""
    described = escape(f"{title}: {panel.caption}" if panel.caption else title)
    return f'<figure><img alt="{described}" src="{_address(panel.pixels)}">{caption}</figure>'


def _address(pixels: Pixels) -> str:
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "JPEG", quality=86, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    header, *body = rows
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in body
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>'
        "</div>"
    )


def _focus(rows: Sequence[Focus]) -> list[Block]:
    """The entropy of each layer: in bars the share of its keys, in a table the figures."""
    bars = [
        f'<div>{escape(row.name)}</div><div class="track"><i style="width:{100 * row.share:.1f}%">'
        f"</i><span>{row.text}</span></div>"
        for row in rows
    ]
    table = [
        [
            row.name,
            f"{row.entropy:.3f}",
            f"{math.log(row.num_keys):.3f}",
            f"{100 * row.share:.1f} %",
        ]
        for row in rows
    ]
    return [
        Heading(TITLE),
        Paragraph(TEXT),
        Markup(f'<div class="focus">{"".join(bars)}</div>', ""),
        Table(["layer", "entropy, nats", "at most", "share of keys"], table),
    ]
