"""What an explanation shows: sheets of panels, each a PNG file and a section of the page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from saccade.analysis import explain_panels as panels
from saccade.analysis.draw import COLOURS, Pixels
from saccade.analysis.explain_legend import Bar, Item, Key
from saccade.analysis.gradient_maps import OUTPUTS
from saccade.analysis.sparsity import LayerSparsity

Data = dict[str, Any]
ALONE = 1100
"""Width of a panel that has a row to itself, in pixels."""


@dataclass(frozen=True)
class Panel:
    """One view of the image."""

    caption: str
    pixels: Pixels


@dataclass(frozen=True)
class Sheet:
    """Panels that belong together."""

    name: str
    """Of its file, without the suffix."""
    title: str
    text: str
    """What one sees, for readers of the page."""
    panels: Sequence[Panel]
    legend: Sequence[Item]
    columns: int = 3
    rows: Sequence[Sequence[str]] = field(default=())
    """A table below: its header first."""


@dataclass(frozen=True)
class Explanation:
    """Everything that is shown."""

    image: Pixels
    """[H, W, 3], RGB."""
    seen: Data
    """What `look` returns, cut at the threshold."""
    chosen: Sequence[int]
    """Which objects are explained."""
    from_pixels: Sequence[Data]
    """What `look_from_pixel` returns."""
    gradients: Float[Tensor, "N 5 h w"] | None
    """Of the chosen objects."""
    sparsity: Sequence[LayerSparsity]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self.image.shape[0], self.image.shape[1]


def sheets(explanation: Explanation) -> Iterator[Sheet]:
    """All sheets, drawn as they are asked for."""
    yield _overview(explanation)
    for rank, index in enumerate(explanation.chosen):
        seen = explanation.seen["objects"][index]
        if seen["layers"]:
            yield _layers(explanation, index)
            yield _boxes(explanation, index)
        if explanation.gradients is not None:
            yield _gradients(explanation, index, explanation.gradients[rank])
    if explanation.seen["proposals"]:
        yield _proposals(explanation)
    for number, from_pixel in enumerate(explanation.from_pixels, start=1):
        yield _from_pixel(explanation, from_pixel, number)


def name_of(explanation: Explanation, index: int) -> str:
    """Such as "object 3, WBC 0.91"."""
    seen = explanation.seen["objects"][index]
    return f"object {index + 1}, {seen['class']} {seen['score']:.2f}"


def _overview(explanation: Explanation) -> Sheet:
    objects = explanation.seen["objects"]

    def draw(axes: Axes) -> None:
        panels.draw_numbers(axes, objects)

    labels = sorted({seen["label"] for seen in objects})
    names = explanation.seen["class_names"]
    legend = [Key("swatch", COLOURS[label % len(COLOURS)], names[label]) for label in labels]
    rows = [["", "class", "score", "x0, y0, x1, y1"]]
    for number, seen in enumerate(objects, start=1):
        sides = ", ".join(f"{side:.0f}" for side in seen["box"])
        rows.append([str(number), seen["class"], f"{seen['score']:.2f}", sides])
    return Sheet(
        "overview",
        "What was found",
        "Numbered from the surest on; the numbers come back below.",
        [Panel("", panels.panel(explanation.image, draw, muted=False, width=ALONE))],
        legend,
        1,
        rows,
    )


def _layers(explanation: Explanation, index: int) -> Sheet:
    seen = explanation.seen["objects"][index]
    deformable = explanation.seen["kind"] == "deformable"
    points = [point for layer in seen["layers"] for point in layer["points"]]
    norm = panels.weight_norm(points)
    boxes = [layer["box"] for layer in seen["layers"]]
    view = panels.view_around(boxes, points, explanation.size)
    shown = []
    for number, layer in enumerate(seen["layers"], start=1):

        def draw(axes: Axes, layer: Data = layer) -> None:
            panels.draw_box(axes, layer["box"], panels.MOVED)
            panels.draw_reference(axes, layer["reference"])
            panels.draw_points(axes, layer["points"], norm)

        caption = f"decoder layer {number}: {seen['class']} {layer['score']:.2f}"
        shown.append(Panel(caption, panels.panel(explanation.image, draw, view)))
    legend = point_legend(explanation.seen["levels"], points)
    first = seen["layers"][0]["reference"]
    if first is not None:
        legend.append(Key("cross", panels.LIGHT, "reference point"))
    if any(len(layer["reference"] or ()) == 4 for layer in seen["layers"]):
        legend.append(Key("dashed", panels.LIGHT, "box that the layer starts from"))
    legend.append(Key("line", panels.MOVED, "box that it predicts"))
    text = (
        "The sampling points of all heads and levels around the reference point."
        if deformable
        else "The strongest keys of each head: this detector weighs every token of the image."
    )
    name = name_of(explanation, index)
    title = f"Where {name} looked"
    return Sheet(f"object-{index + 1}-layers", title, text, shown, legend)


def point_legend(levels: Sequence[Data], points: panels.Points) -> list[Item]:
    """Of colours and shapes of points."""
    largest = max((point[2] for point in points), default=1.0)
    items: list[Item] = [Bar(panels.WEIGHTS, "0", f"{largest:.2f}", "attention weight")]
    for index, level in enumerate(levels):
        shape: Any = panels.MARKERS[index % len(panels.MARKERS)]
        text = f"level {index + 1}, {level['width']} x {level['height']} tokens"
        items.append(Key(shape, panels.WEIGHTS(0.7), text))
    return items


def _boxes(explanation: Explanation, index: int) -> Sheet:
    seen = explanation.seen["objects"][index]
    layers, proposal = seen["layers"], seen["proposal"]
    boxes = [layer["box"] for layer in layers]
    around = boxes + ([proposal["box"]] if proposal else [])
    view = panels.view_around(around, [], explanation.size, least=0.1)

    def draw(axes: Axes) -> None:
        if proposal:
            panels.draw_box(axes, proposal["box"], panels.START, dashed=True, width=1.8)
        for number, box in enumerate(boxes):
            width = 1.5 + 0.7 * (number == len(boxes) - 1)
            panels.draw_box(axes, box, panels.layer_colour(number, len(boxes)), width=width)

    rows = [["", "score", "centre x", "centre y", "width", "height"]]
    legend: list[Item] = []
    if proposal:
        rows.append(["first stage", f"{proposal['score']:.2f}", *_sides(proposal["box"])])
        legend.append(Key("dashed", panels.START, "first-stage proposal"))
    for number, layer in enumerate(layers):
        rows.append([f"layer {number + 1}", f"{layer['score']:.2f}", *_sides(layer["box"])])
        colour = panels.layer_colour(number, len(layers))
        legend.append(Key("line", colour, f"after layer {number + 1}"))
    text = "In pixels of the image; the scores are those of its class" + (
        ", and of the first stage that of being an object at all." if proposal else "."
    )
    name = name_of(explanation, index)
    picture = panels.panel(explanation.image, draw, view, width=ALONE)
    title = f"How the box of {name} moved"
    return Sheet(f"object-{index + 1}-boxes", title, text, [Panel("", picture)], legend, 1, rows)


def _sides(box: panels.Box) -> list[str]:
    x, y = panels.centre(box)
    return [f"{value:.1f}" for value in (x, y, box[2] - box[0], box[3] - box[1])]


def _gradients(explanation: Explanation, index: int, maps: Float[Tensor, "5 h w"]) -> Sheet:
    seen = explanation.seen["objects"][index]
    box = seen["box"]
    as_tensor = tv.to_image(explanation.image)
    small = tv.resize(as_tensor, list(maps.shape[1:]), antialias=True).permute(1, 2, 0).numpy()
    height, width = explanation.size

    around = [2 * box[0] - box[2], 2 * box[1] - box[3], 2 * box[2] - box[0], 2 * box[3] - box[1]]
    view = panels.view_around([around], [], explanation.size, least=0.4)

    def draw(axes: Axes) -> None:
        panels.draw_box(axes, box, panels.MOVED, width=1.8)

    shown = []
    for output, of_output in zip(OUTPUTS, maps.numpy(), strict=True):
        over = panels.salience(small, of_output)
        large = np.asarray(Image.fromarray(over).resize((width, height), Image.Resampling.BICUBIC))
        picture = panels.panel(large, draw, view, muted=False)
        shown.append(Panel(f"{output}: up to {_figure(float(of_output.max()))}", picture))
    name = name_of(explanation, index)
    return Sheet(
        f"object-{index + 1}-gradients",
        f"Which pixels move {name}",
        "The norm of the derivative of the box's centre and sides (as fractions of the image) and "
        "of the class score, with respect to each pixel that the detector sees, of values in 0 to "
        "1: a pixel that shines moves it. Each map has its own scale; its largest value is told.",
        shown,
        [
            Bar(panels.SALIENCE, "0", "largest", "gradient norm"),
            Key("line", panels.MOVED, "the box"),
        ],
    )


def _figure(value: float) -> str:
    return f"{value:.1e}" if 0 < value < 0.01 else f"{value:.2f}"


def _proposals(explanation: Explanation) -> Sheet:
    proposals = explanation.seen["proposals"]
    scores = [each["score"] for each in proposals]
    low, high = min(scores), max(scores)

    def draw(axes: Axes) -> None:
        for each in reversed(proposals):
            share = (each["score"] - low) / max(high - low, 1e-9)
            panels.draw_box(axes, each["box"], panels.WEIGHTS(share), width=1.0 + 1.2 * share)

    return Sheet(
        "proposals",
        "First-stage proposals",
        f"The {len(proposals)} boxes from which the queries started, before the decoder: tokens of "
        "the encoder that seemed to be objects.",
        [Panel("", panels.panel(explanation.image, draw, width=ALONE))],
        [Bar(panels.WEIGHTS, f"{low:.2f}", f"{high:.2f}", "score of being an object")],
        1,
    )


def _from_pixel(explanation: Explanation, data: Data, number: int) -> Sheet:
    tokens = data["tokens"]
    last = [token["layers"][-1]["points"] if token["layers"] else [] for token in tokens]
    points = [point for of_token in last for point in of_token]
    norm = panels.weight_norm(points)
    shown = []
    for token, of_token in zip(tokens, last, strict=True):
        view = panels.view_around([(*token["centre"], *token["centre"])], points, explanation.size)

        def draw(axes: Axes, token: Data = token, of_token: Any = of_token) -> None:
            panels.draw_points(axes, of_token, norm)
            panels.draw_reference(axes, token["centre"])

        caption = (
            f"token of level {token['level'] + 1}: row {token['row']}, column {token['column']}"
        )
        shown.append(Panel(caption, panels.panel(explanation.image, draw, view)))
    x, y = data["pixel"]
    deformable = data["kind"] == "deformable"
    return Sheet(
        f"encoder-{number}",
        f"Where the encoder looked from pixel ({x:.0f}, {y:.0f})",
        "One token of each level holds this pixel; these are its points in the last encoder layer."
        if deformable
        else "The strongest keys of each head in the last encoder layer, for this pixel's token.",
        shown,
        [
            *point_legend(explanation.seen["levels"], points),
            Key("cross", panels.LIGHT, "centre of the token"),
        ],
    )
