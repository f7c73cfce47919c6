"""Small pictures of images, with what is wrong on them."""

import base64
import io
from html import escape

from PIL import Image, ImageDraw

from saccade.data.images import open_image, to_rgb, upright
from saccade.doctor.findings import Example

SIDE = 420
"""Of a picture's longer side, in pixels."""
MARGIN = 0.25
"""Of the image's sides: the most that is shown around it for boxes that lie outside."""
COLOUR, GROUND = "#ff2d7e", "#7b8794"
TINY = 12
"""Pixels below which a box gets a ring around it, to be seen at all."""


def picture(example: Example) -> str:
    """An image as HTML, its boxes drawn; a note where it cannot be read."""
    try:
        pixels = _drawn(example)
    except (ValueError, OSError):
        return f'<p class="unread">{escape(example.file.name)} cannot be read.</p>'
    stream = io.BytesIO()
    pixels.save(stream, "JPEG", quality=82)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{escape(example.file.name)}" src="data:image/jpeg;base64,{data}">'


def _drawn(example: Example) -> Image.Image:
    with open_image(example.file) as opened:
        image = to_rgb(upright(opened, example.size))
    scale = min(SIDE / max(image.size), 4.0)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.BILINEAR)
    # The annotations may be of an image of another size.
    factors = (size[0] / example.size[1], size[1] / example.size[0])
    boxes = [
        (x0 * factors[0], y0 * factors[1], x1 * factors[0], y1 * factors[1])
        for x0, y0, x1, y1 in example.boxes
    ]
    left, top, right, bottom = _margins(boxes, size)
    canvas = Image.new("RGB", (size[0] + left + right, size[1] + top + bottom), GROUND)
    canvas.paste(image, (left, top))
    pen = ImageDraw.Draw(canvas)
    thickness = 1 if len(boxes) > 60 else 2
    for x0, y0, x1, y1 in boxes:
        corners = _within((x0 + left, y0 + top, x1 + left, y1 + top), canvas.size)
        pen.rectangle(corners, outline=COLOUR, width=thickness)
        if max(x1 - x0, y1 - y0) < TINY and len(boxes) <= 60:
            x, y = (corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2
            pen.ellipse((x - TINY, y - TINY, x + TINY, y + TINY), outline=COLOUR, width=2)
    return canvas


def _margins(
    boxes: list[tuple[float, float, float, float]], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom."""
    width, height = size
    most = (MARGIN * width, MARGIN * height)
    return (
        round(min(most[0], max([0.0, *(-box[0] for box in boxes)]))),
        round(min(most[1], max([0.0, *(-box[1] for box in boxes)]))),
        round(min(most[0], max([0.0, *(box[2] - width for box in boxes)]))),
        round(min(most[1], max([0.0, *(box[3] - height for box in boxes)]))),
    )


def _within(
    box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """A box that ends at the canvas, so that even those far outside leave a line."""
    width, height = size
    x0, x1 = (min(max(value, 0.0), width - 1.0) for value in (box[0], box[2]))
    y0, y1 = (min(max(value, 0.0), height - 1.0) for value in (box[1], box[3]))
    return x0, y0, max(x0, x1), max(y0, y1)
