"""A sheet of an explanation as one picture."""

from PIL import Image, ImageDraw

from saccade.analysis.explain_legend import font, paint
from saccade.analysis.explain_sheets import Sheet

MARGIN, SPACE = 28, 18


def compose(sheet: Sheet) -> Image.Image:
    """A sheet as one picture on white: title, panels in rows, legend."""
    columns = min(sheet.columns, len(sheet.panels))
    height, width = sheet.panels[0].pixels.shape[:2]
    captions = 38 if any(each.caption for each in sheet.panels) else 0
    rows = -(-len(sheet.panels) // columns)
    inner = columns * width + (columns - 1) * SPACE
    legend = paint(sheet.legend, inner)
    top = MARGIN + 52
    bottom = top + rows * (height + captions + SPACE)
    page = Image.new("RGB", (inner + 2 * MARGIN, bottom + legend.height + MARGIN // 2 + 6), "white")
    draw = ImageDraw.Draw(page)
    title = sheet.title[:1].upper() + sheet.title[1:]
    size = 27
    while size > 12 and font(size, bold=True).getlength(title) > inner:
        size -= 1
    draw.text((MARGIN, MARGIN + 12), title, "#14181d", font(size, bold=True), anchor="lm")
    for index, each in enumerate(sheet.panels):
        row, column = divmod(index, columns)
        x = MARGIN + column * (width + SPACE)
        y = top + row * (height + captions + SPACE)
        if captions:
            draw.text((x, y + captions // 2 - 3), each.caption, "#333c46", font(21), anchor="lm")
        page.paste(Image.fromarray(each.pixels), (x, y + captions))
    page.paste(legend, (MARGIN, bottom))
    return page
