"""From predictions to detections, without suppression: each query speaks for one object."""

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from saccade.structures import Predictions


@dataclass(frozen=True)
class Found:
    """What was found in one image, best first."""

    boxes: Float[Tensor, "N 4"]
    """``cx, cy, w, h``, fraction of image."""
    scores: Float[Tensor, " N"]
    labels: Int64[Tensor, " N"]
    queries: Int64[Tensor, " N"]
    """Which query said so."""


def select(predictions: Predictions, classification: str, top_k: int = 100) -> list[Found]:
    """The `top_k` best detections of every image.

    With sigmoids a query may speak for several classes (Deformable DETR's evaluation: the best of
    all Q x K scores); with a softmax for its best class alone (DETR's).
    """
    if classification == "sigmoid":
        scores = predictions.logits.float().sigmoid().flatten(1)
    else:
        scores = predictions.logits.float().softmax(-1)[..., :-1].max(-1).values
    best = scores.topk(min(top_k, scores.shape[1]))
    if classification == "sigmoid":
        num_classes = predictions.logits.shape[-1]
        queries, labels = best.indices // num_classes, best.indices % num_classes
    else:
        queries = best.indices
        labels = predictions.logits[..., :-1].argmax(-1).gather(1, queries)
    boxes = predictions.boxes.gather(1, queries[..., None].expand(-1, -1, 4))
    return [Found(*parts) for parts in zip(boxes, best.values, labels, queries, strict=True)]
