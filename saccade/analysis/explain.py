"""What the command `saccade explain` does."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from saccade.analysis.explain_arguments import ExplainArguments
from saccade.analysis.explain_focus import focus_of, paint_focus
from saccade.analysis.explain_page import write_page
from saccade.analysis.explain_panels import centre
from saccade.analysis.explain_picture import compose
from saccade.analysis.explain_sheets import Explanation, sheets
from saccade.analysis.gradient_maps import OUTPUTS, gradient_maps
from saccade.analysis.sampling_points import look, look_from_pixel
from saccade.analysis.sparsity import LayerSparsity, attention_sparsity
from saccade.data import prepare_image, read_image
from saccade.engines import load_detector
from saccade.inference.detections import check_thresholds
from saccade.settings import free_folder
from saccade.structures import Batch

if TYPE_CHECKING:
    from saccade.inference import Detector


def explain(arguments: ExplainArguments, command: Sequence[str], console: Console) -> int:
    """Look at an image, and write the pictures and ``index.html``.

    Returns:
        The exit status, 0.

    Raises:
        ValueError: If the image or the weights cannot be read, or nothing is found.
        OSError: If the folder cannot be written.
    """
    check_thresholds(arguments.threshold, arguments.top_k)
    if arguments.objects < 1:
        raise ValueError(f"--objects is {arguments.objects}: expected at least 1, such as 3.")
    if arguments.out is not None and arguments.out.is_file():
        raise ValueError(f"--out {arguments.out} is a file: name a folder for the pictures.")
    if arguments.out is not None and arguments.out.resolve() == arguments.image.resolve().parent:
        raise ValueError(f"--out {arguments.out} holds the image itself: name another folder.")
    image = read_image(arguments.image)
    detector = load_detector(arguments.weights, arguments.preset, arguments.device)
    explanation = explained(detector, image, arguments, console)
    out = arguments.out or free_folder(Path("runs/explain"))
    out.mkdir(parents=True, exist_ok=True)
    drawn = []
    for sheet in sheets(explanation):
        compose(sheet).save(out / f"{sheet.name}.png")
        drawn.append(sheet)
    if explanation.sparsity:
        paint_focus(focus_of(explanation.sparsity)).save(out / "attention.png")
    page = out / "index.html"
    subject = f"{arguments.image.name}, looked at by {arguments.weights}"
    write_page(page, explanation, drawn, subject, shlex.join(command))
    count = len(drawn) + bool(explanation.sparsity)
    console.print(f"{count} pictures, and all of them on one page: {page}", soft_wrap=True)
    return 0


def explained(
    detector: "Detector",
    image: UInt8[Tensor, "3 H W"],
    arguments: ExplainArguments,
    console: Console | None = None,
) -> Explanation:
    """Everything that is shown of an image.

    Raises:
        ValueError: If no object is found, or a pixel lies outside of the image.
    """
    seen = look(detector, image, arguments.top_k)
    scores = [each["score"] for each in seen["objects"]]
    seen["objects"] = [each for each in seen["objects"] if each["score"] >= arguments.threshold]
    if not seen["objects"]:
        raise ValueError(
            f"nothing in the image has a score of {arguments.threshold:g} or more: the best is "
            f"{max(scores):.3f}; lower --threshold to see what it is."
        )
    chosen = choose([each["label"] for each in seen["objects"]], arguments.objects)
    return Explanation(
        image=image.permute(1, 2, 0).numpy(),
        seen=seen,
        chosen=chosen,
        from_pixels=_from_pixels(detector, image, arguments, seen["objects"][0]["box"]),
        gradients=_gradients(detector, image, [seen["objects"][index] for index in chosen], console)
        if arguments.gradients
        else None,
        sparsity=_sparsity(detector, image),
    )


def choose(labels: Sequence[int], count: int) -> list[int]:
    """Of objects in the order of their scores, the first of each class, then the others.

    >>> choose([1, 1, 0, 1], 3)
    [0, 2, 1]
    """
    firsts = [index for index, label in enumerate(labels) if label not in labels[:index]]
    others = [index for index in range(len(labels)) if index not in firsts]
    return (firsts + others)[:count]


def _from_pixels(
    detector: "Detector",
    image: UInt8[Tensor, "3 H W"],
    arguments: ExplainArguments,
    best: Sequence[float | int],
) -> list[dict[str, Any]]:
    height, width = image.shape[1:]
    if arguments.pixel:
        places = list(arguments.pixel)
    elif detector.config.selection.kind == "none":
        x, y = centre(best)
        # A box may reach beyond the image.
        places = [(min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0))]
    else:
        places = []
    return [look_from_pixel(detector, image, x, y) for x, y in places]


def _gradients(
    detector: "Detector",
    image: UInt8[Tensor, "3 H W"],
    objects: Sequence[dict[str, Any]],
    console: Console | None,
) -> Tensor:
    queries, labels = (torch.tensor([each[key] for each in objects]) for key in ("query", "label"))
    with Progress(console=console, disable=console is None, transient=True) as progress:
        task = progress.add_task("gradient maps", total=len(objects) * len(OUTPUTS))
        return gradient_maps(detector, image, queries, labels, lambda: progress.advance(task))


def _sparsity(detector: "Detector", image: UInt8[Tensor, "3 H W"]) -> tuple[LayerSparsity, ...]:
    prepared = prepare_image(image, detector.config.input)
    return attention_sparsity(detector.model, [Batch.from_images([prepared]).to(detector.device)])
