"""Which pixels move a detection: gradient norms (Deformable DETR, appendix A.5)."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from saccade.data import resize_image
from saccade.structures import Batch, Predictions

if TYPE_CHECKING:
    from saccade.inference import Detector

OUTPUTS = ("x", "y", "w", "h", "class score")
"""What a map is of: the centre and the sides of the box, and the score of the object's class."""


def gradient_maps(
    detector: "Detector",
    image: UInt8[Tensor, "3 H W"],
    queries: Int64[Tensor, " N"],
    labels: Int64[Tensor, " N"],
    done: Callable[[], object] | None = None,
) -> Float[Tensor, "N 5 h w"]:
    """How much each pixel moves each of `OUTPUTS` of some objects, to first order.

    The norm over the channels of the derivative with respect to the pixels, values in [0, 1], of
    the resized image that the detector sees. Centre and sides are fractions of the image. As in
    training, the boxes that queries and later layers start from are constants (section 4.2).

    Args:
        detector: Its weights get no gradients.
        image: RGB, values in [0, 255].
        queries: Which queries found the objects.
        labels: Their classes.
        done: Called after each map.

    Returns:
        On the CPU; h and w are those of the resized image.
    """
    resized = resize_image(image, detector.config.input)
    like = next(detector.model.parameters())
    pixels = resized.to(like.device, like.dtype) / 255
    mean, std = (
        pixels.new_tensor(each)[:, None, None]
        for each in (detector.config.input.mean, detector.config.input.std)
    )
    with torch.enable_grad():
        pixels.requires_grad_()
        predictions = detector.model(Batch.from_images([(pixels - mean) / std]))
        outputs = outputs_of(predictions, detector.config.classification, queries, labels)
    maps = []
    for output in outputs.flatten():
        maps.append(_norm(output, pixels).cpu())
        if done is not None:
            done()
    shape = (len(queries), len(OUTPUTS), *pixels.shape[1:])
    return torch.stack(maps).view(shape) if maps else torch.zeros(shape)


def outputs_of(
    predictions: Predictions,
    classification: str,
    queries: Int64[Tensor, " N"],
    labels: Int64[Tensor, " N"],
) -> Float[Tensor, "N 5"]:
    """`OUTPUTS` of objects of the first image, differentiable."""
    logits = predictions.logits[0, queries]
    scores = logits.sigmoid() if classification == "sigmoid" else logits.softmax(-1)
    chosen = scores.gather(1, labels.to(scores.device)[:, None])
    return torch.cat([predictions.boxes[0, queries], chosen.to(predictions.boxes.dtype)], 1)


def _norm(output: Float[Tensor, ""], pixels: Float[Tensor, "3 h w"]) -> Float[Tensor, "h w"]:
    (gradient,) = torch.autograd.grad(output, pixels, retain_graph=True)
    return gradient.norm(dim=0)
