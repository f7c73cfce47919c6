"""What colours and marks stand for: the same under a picture and on a page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.colors import Colormap, to_hex
from PIL import Image, ImageDraw, ImageFont

Shape = Literal["o", "s", "^", "D", "P", "line", "dashed", "cross", "swatch"]
HEIGHT, SYMBOL, GAP = 40, 26, 34
_SIDES: dict[str, list[tuple[float, float]]] = {
    "o": [(math.cos(turn / 24 * math.tau), math.sin(turn / 24 * math.tau)) for turn in range(24)],
    "s": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "^": [(0, -1), (0.95, 0.8), (-0.95, 0.8)],
    "D": [(0, -1.05), (1.05, 0), (0, 1.05), (-1.05, 0)],
    "P": [
        *((-0.35, -1), (0.35, -1), (0.35, -0.35), (1, -0.35), (1, 0.35), (0.35, 0.35)),
        *((0.35, 1), (-0.35, 1), (-0.35, 0.35), (-1, 0.35), (-1, -0.35), (-0.35, -0.35)),
    ],
    "swatch": [(-1, -0.7), (1, -0.7), (1, 0.7), (-1, 0.7)],
}


@dataclass(frozen=True)
class Key:
    """A mark and what it stands for."""

    shape: Shape
    colour: Any
    text: str


@dataclass(frozen=True)
class Bar:
    """A colour map and what its ends stand for."""

    colours: Colormap
    low: str
    high: str
    text: str


Item = Key | Bar


def to_html(items: Sequence[Item]) -> str:
    """One line that wraps; its letters have the page's colour."""
    return f'<ul class="key">{"".join(map(_html, items))}</ul>'


def _html(item: Item) -> str:
    if isinstance(item, Bar):
        stops = ", ".join(to_hex(item.colours(step / 8)) for step in range(9))
        return (
            f"<li>{escape(item.text)} <span>{escape(item.low)}</span> "
            f'<i class="ramp" style="background:linear-gradient(90deg, {stops})"></i> '
            f"<span>{escape(item.high)}</span></li>"
        )
    colour = to_hex(item.colour)
    if item.shape in ("line", "dashed"):
        dashes = ' stroke-dasharray="6 4"' if item.shape == "dashed" else ""
        drawn = "".join(
            f'<line x1="1" x2="25" y1="9" y2="9" stroke="{each}" stroke-width="{width}"{dashes}/>'
            for each, width in (("#101418", 6), (colour, 3))
        )
    elif item.shape == "cross":
        drawn = "".join(
            f'<path d="M13 2V16M6 9H20" stroke="{each}" stroke-width="{width}"/>'
            for each, width in (("#101418", 6), (colour, 3))
        )
    else:
        points = " ".join(f"{13 + 7 * x:.1f},{9 + 7 * y:.1f}" for x, y in _SIDES[item.shape])
        drawn = f'<polygon points="{points}" fill="{colour}" stroke="#101418" stroke-width="1.2"/>'
    symbol = f'<svg viewBox="0 0 26 18" width="26" height="18" aria-hidden="true">{drawn}</svg>'
    return f"<li>{symbol} {escape(item.text)}</li>"


def paint(items: Sequence[Item], width: int) -> Image.Image:
    """The same on white, in as many lines as it needs."""
    text = font(20)
    places, x, line = [], 0, 0
    for item in items:
        extent = int(_extent(item, text))
        if x and x + extent > width:
            x, line = 0, line + 1
        places.append((x, line * HEIGHT))
        x += extent + GAP
    picture = Image.new("RGB", (width, (line + 1) * HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    for item, place in zip(items, places, strict=True):
        _paint(draw, item, place, text)
    return picture


@lru_cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """matplotlib's own, which has letters of many languages."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


_RAMP = 150


def _extent(item: Item, text: ImageFont.FreeTypeFont) -> float:
    if isinstance(item, Key):
        return SYMBOL + 10 + text.getlength(item.text)
    return _RAMP + 30 + sum(text.getlength(each) for each in (item.text, item.low, item.high))


def _paint(
    draw: ImageDraw.ImageDraw, item: Item, place: tuple[int, int], text: ImageFont.FreeTypeFont
) -> None:
    x, y = place
    middle = y + HEIGHT // 2
    if isinstance(item, Bar):
        for word in (item.text, item.low):
            draw.text((x, middle), word, "#333c46", text, anchor="lm")
            x += int(text.getlength(word)) + 10
        for step in range(_RAMP):
            colour = to_hex(item.colours(step / (_RAMP - 1)))
            draw.line([(x + step, middle - 9), (x + step, middle + 9)], colour)
        draw.text((x + _RAMP + 10, middle), item.high, "#333c46", text, anchor="lm")
        return
    colour, centre = to_hex(item.colour), x + SYMBOL // 2
    if item.shape in ("line", "dashed"):
        gaps = [(0, SYMBOL)] if item.shape == "line" else [(0, 10), (16, SYMBOL)]
        for start, end in gaps:
            draw.line([(x + start, middle), (x + end, middle)], "#101418", 8)
            draw.line([(x + start + 1, middle), (x + end - 1, middle)], colour, 4)
    elif item.shape == "cross":
        for each, width in (("#101418", 8), (colour, 4)):
            draw.line([(centre - 10, middle), (centre + 10, middle)], each, width)
            draw.line([(centre, middle - 10), (centre, middle + 10)], each, width)
    else:
        corners = [(centre + 10 * dx, middle + 10 * dy) for dx, dy in _SIDES[item.shape]]
        draw.polygon(corners, colour, "#101418", 2)
    draw.text((x + SYMBOL + 10, middle), item.text, "#333c46", text, anchor="lm")
