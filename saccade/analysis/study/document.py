"""A report as blocks that become Markdown and one HTML file."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Heading:
    """A title of the second level."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """Sentences one below the other."""

    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """What is typed."""

    text: str


@dataclass(frozen=True)
class Table:
    """Text in the first column, figures in the others."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    kind: Literal["ours", "published", "plain"] = "plain"
    """Measured here, or reported by others: they look different."""


@dataclass(frozen=True)
class Picture:
    """A PNG or JPEG file beside the report."""

    file: Path
    caption: str


@dataclass(frozen=True)
class Folded:
    """Long text that the HTML page shows when its title is clicked."""

    title: str
    text: str


@dataclass(frozen=True)
class Markup:
    """A part of the page as it is, whatever it shows escaped already."""

    html: str
    text: str
    """What stands for it in Markdown."""


Block = Heading | Paragraph | Bullets | Code | Table | Picture | Folded | Markup

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2430; background: #fff;
       max-width: 62rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; }
figure { margin: 1.2rem 0; }
img { max-width: 100%; height: auto; }
figcaption, .note { color: #556070; font-size: .92rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: right; white-space: nowrap;
         border-bottom: 1px solid #e3e7ec; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #8b97a6; }
table.ours th { background: #e5f1fb; }
table.published th { background: #f4ecdd; }
table.published { color: #5d5341; }
pre { background: #f3f5f8; padding: .8rem 1rem; overflow-x: auto; border-radius: 4px; }
li { margin: .3rem 0; }
summary { cursor: pointer; color: #1f4fd8; }
details pre { max-height: 30rem; overflow: auto; }
@media (max-width: 40rem) {
  body { margin: 1.2rem auto; padding: 0 .8rem; }
  h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
  th, td { padding: .3rem .4rem; white-space: normal; }
}
@media (prefers-color-scheme: dark) {
  body { color: #dfe5ec; background: #14191f; }
  figcaption, .note { color: #9aa7b5; }
  img { background: #fff; border-radius: 4px; }
  th, td { border-bottom-color: #2c3540; }
  th { border-bottom-color: #5b6775; }
  table.ours th { background: #17324a; }
  table.published th { background: #40351f; }
  table.published { color: #cbbd9c; }
  pre { background: #1f262e; }
  summary, a { color: #82aaff; }
}
"""


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """The report; pictures are named as files beside it."""
    return "\n\n".join([f"# {title}", *map(_markdown, blocks)]) + "\n"


def to_html(title: str, blocks: Sequence[Block], style: str = "") -> str:
    """The report in one file, pictures included.

    Args:
        title: Of the page.
        blocks: One below the other.
        style: CSS that comes after the usual one.
    """
    body = "\n".join(map(_html, blocks))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"## {block.text}"
    if isinstance(block, Paragraph):
        return block.text
    if isinstance(block, Bullets):
        return "\n".join(f"- {item}" for item in block.items)
    if isinstance(block, Code):
        return f"```bash\n{block.text}\n```"
    if isinstance(block, Folded):
        return f"{block.title}\n\n```\n{block.text}\n```"
    if isinstance(block, Markup):
        return block.text
    if isinstance(block, Picture):
        return f"![{block.caption}]({block.file.name})\n\n*{block.caption}*"
    rules = ["---", *("---:" for _ in block.header[1:])]
    lines = [block.header, rules, *block.rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h2>{escape(block.text)}</h2>"
    if isinstance(block, Paragraph):
        return f"<p>{escape(block.text)}</p>"
    if isinstance(block, Bullets):
        items = "".join(f"<li>{escape(item)}</li>" for item in block.items)
        return f"<ul>{items}</ul>"
    if isinstance(block, Code):
        return f"<pre>{escape(block.text)}</pre>"
    if isinstance(block, Markup):
        return block.html
    if isinstance(block, Folded):
        title, text = escape(block.title), escape(block.text)
        return f"<details><summary>{title}</summary><pre>{text}</pre></details>"
    if isinstance(block, Picture):
        data = base64.b64encode(block.file.read_bytes()).decode()
        caption = escape(block.caption)
        kind = "png" if block.file.suffix == ".png" else "jpeg"
        return (
            f'<figure><img alt="{caption}" src="data:image/{kind};base64,{data}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    header = "".join(f"<th>{escape(cell)}</th>" for cell in block.header)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in block.rows
    )
    return (
        f'<div class="scroll"><table class="{block.kind}"><thead><tr>{header}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>"
    )
