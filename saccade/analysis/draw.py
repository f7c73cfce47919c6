"""Pictures for people: boxes on images, predictions beside truth, curves of AP."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from saccade.inference.detections import supervision

if TYPE_CHECKING:
    from supervision import Detections

Pixels = npt.NDArray[np.uint8]

SMALLEST_SIDE = 640
"""Smaller images are enlarged before drawing: labels of fixed size would cover them."""

COLOURS = ["#d1105a", "#1f4fd8", "#0b7a3b", "#b35900", "#6a1fb0", "#007a87", "#8a6d00", "#5b3a1e"]
"""Of the classes in turn: dark enough for white letters."""


def draw_boxes(image: UInt8[Tensor, "3 H W"], detections: "Detections", title: str = "") -> Pixels:
    """An image with its boxes and labels; the score is shown where there is one.

    Args:
        image: RGB, values in [0, 255].
        detections: Boxes in pixels of `image`; ``data["class_name"]`` says what they are; one
            without a name gets no label.
        title: A line above the picture.

    Returns:
        [H', W', 3], RGB; enlarged when the image is small.
    """
    sv = supervision()
    scale = max(1, -(-SMALLEST_SIDE // max(image.shape[1:])))
    size = [side * scale for side in image.shape[1:]]
    # supervision draws as OpenCV does, with blue first.
    scene = tv.resize(image, size, antialias=True).flip(0).permute(1, 2, 0).contiguous().numpy()
    enlarged = sv.Detections(
        xyxy=detections.xyxy * scale, class_id=detections.class_id, data=detections.data
    )
    names = detections.data.get("class_name", [])
    scores = detections.confidence
    labels = [
        str(name) if scores is None else f"{name} {scores[index]:.2f}"
        for index, name in enumerate(names)
    ]
    palette = sv.ColorPalette.from_hex(COLOURS)
    scene = sv.BoxAnnotator(palette, thickness=2).annotate(scene, enlarged)
    named = [index for index, name in enumerate(names) if name]
    if named:
        writer = sv.LabelAnnotator(palette, text_scale=0.4, text_padding=2, smart_position=True)
        scene = writer.annotate(scene, enlarged[named], [labels[index] for index in named])
    scene = scene[..., ::-1]
    return _with_title(scene, title) if title else scene


def draw_beside_truth(
    image: UInt8[Tensor, "3 H W"], found: "Detections", truth: "Detections"
) -> Pixels:
    """What was found at the left, what is marked at the right."""
    left = draw_boxes(image, found, f"found: {len(found)}")
    right = draw_boxes(image, truth, f"marked by people: {len(truth)}")
    gap = np.full((left.shape[0], 8, 3), 255, np.uint8)
    return np.concatenate([left, gap, right], 1)


def draw_curve(evaluations: Path, file: Path) -> None:
    """Plot AP and AP50 over the minutes of training from a run's ``evaluations.jsonl``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = [json.loads(line) for line in evaluations.read_text("utf-8").splitlines()]
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    minutes = [record["minutes"] for record in records]
    for name, colour in (("AP50", "tab:orange"), ("AP", "tab:blue")):
        values = [100 * record[name] for record in records]
        axes.plot(minutes, values, "o-", color=colour, label=name)
        axes.annotate(
            f"{values[-1]:.1f}",
            (minutes[-1], values[-1]),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            color=colour,
        )
    axes.set(xlabel="minutes of training", ylabel="percent, on images held out", ylim=(0, 100))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(file, dpi=150)


def save_image(pixels: Pixels, file: Path) -> None:
    """Write [H, W, 3] RGB to a file; its suffix says the format."""
    Image.fromarray(pixels).save(file, quality=92)


def _with_title(scene: Pixels, title: str) -> Pixels:
    banner = Image.new("RGB", (scene.shape[1], 28), "white")
    ImageDraw.Draw(banner).text((6, 4), title, fill="black", font=ImageFont.load_default(17))
    return np.concatenate([np.asarray(banner), scene], 0)
