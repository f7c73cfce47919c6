"""How concentrated each layer's attention is, in words, figures and a picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from saccade.analysis.explain_legend import font
from saccade.analysis.sparsity import LayerSparsity

TITLE = "How concentrated attention is"
TEXT = (
    "The entropy of each layer's attention weights, the mean over heads and queries: a query that "
    "looks at so many keys alike would have the same. Short bars are sharp."
)
_BAR, _ROW, _MARGIN = 640, 44, 28


@dataclass(frozen=True)
class Focus:
    """The attention of one layer."""

    name: str
    entropy: float
    """In nats, the mean over heads and queries."""
    num_keys: float

    @property
    def as_many(self) -> float:
        """How many keys looked at alike have this entropy."""
        return math.exp(self.entropy)

    @property
    def share(self) -> float:
        """Of the keys, 0 to 1."""
        return min(1.0, self.as_many / self.num_keys)

    @property
    def text(self) -> str:
        """Such as "as if 5.6 of 12"."""
        return f"as if {self.as_many:,.1f} of {self.num_keys:,.0f}"


def focus_of(sparsity: Sequence[LayerSparsity]) -> list[Focus]:
    """Of every layer, first layer first."""
    rows = []
    for layer in sparsity:
        part, _, index, attention = layer.name.split(".")
        name = f"{part} layer {int(index) + 1}, {attention.replace('_', '-')}"
        rows.append(Focus(name, -layer.negative_entropy, layer.num_keys))
    return rows


def paint_focus(rows: Sequence[Focus]) -> Image.Image:
    """A bar for each layer, as long as its share of the keys, on white."""
    text, title = font(20), font(27, bold=True)
    left = _MARGIN + int(max(text.getlength(row.name) for row in rows)) + 20
    top = _MARGIN + 52
    size = (left + _BAR + _MARGIN, top + _ROW * len(rows) + _MARGIN)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, _MARGIN + 12), TITLE, "#14181d", title, anchor="lm")
    for number, row in enumerate(rows):
        high = top + number * _ROW
        middle = high + _ROW // 2
        draw.text((_MARGIN, middle), row.name, "#333c46", text, anchor="lm")
        draw.rectangle((left, high + 5, left + _BAR, high + _ROW - 5), "#f5f7f9")
        end = left + max(2, round(row.share * _BAR))
        draw.rectangle((left, high + 5, end, high + _ROW - 5), "#8fc0e4")
        draw.text((left + 10, middle), row.text, "#14181d", text, anchor="lm")
    return picture
