"""Where a detector looked: the points of its queries and tokens, in pixels, as plain data.

What `look` and `look_from_pixel` return can be written as JSON as it is: coordinates are rounded to
a tenth of a pixel, weights and scores to four digits.
"""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from saccade.analysis.attention_calls import AttentionCalls, points_looked_at, watch_attention
from saccade.boxes import fractions_to_pixels
from saccade.data import resize_image
from saccade.inference.detections import check_thresholds
from saccade.model import select
from saccade.structures import Predictions, Tokens

if TYPE_CHECKING:
    from saccade.inference import Detector

Size = tuple[int, int]


@torch.inference_mode()
def look(detector: "Detector", image: UInt8[Tensor, "3 H W"], top_k: int = 100) -> dict[str, Any]:
    """What a detector finds in an image, and where the query of each object looked.

    All boxes (``x0, y0, x1, y1``) and points are in pixels of `image`. What a detector does not
    have is an empty list, or None.

    Args:
        detector: Of any kind. It is not changed, and other threads may use it meanwhile.
        image: RGB, values in [0, 255].
        top_k: Most objects; there is no threshold.

    Returns:
        - "image": {"width", "height"};
        - "class_names";
        - "levels": [{"height", "width"}] in tokens, finest first; empty without deformable
          attention;
        - "kind": "deformable" or "dense": without sampling points, the strongest keys of each
          head are given in their place, all of level 0 (see `attention_calls.KEYS_PER_HEAD`);
        - "objects", best first: "query", "label", "class", "score", "box"; "proposal" (two-stage):
          the {"box", "score"} that the query started from; "layers", those of the decoder, first
          first: "reference", the point or box ``p_q`` that the layer starts from; the "box" and
          the "score" (of the same class) that it predicts; "points": [x, y, weight, level, head];
        - "proposals" (two-stage): the {"box", "score"} of those that became queries, best first.

    Raises:
        ValueError: If `top_k` is below 1.
    """
    check_thresholds(0.0, top_k)
    predictions, calls = _run(detector, image)
    size = (image.shape[1], image.shape[2])
    (found,) = select(predictions, detector.config.classification, top_k)
    proposals = _proposals(predictions.proposals, detector.config.queries.num_queries, size)
    rows = [
        {
            "query": query,
            "label": label,
            "class": detector.class_names[label],
            "score": round(score, 4),
            "box": _rounded(box),
            "proposal": proposals[query] if proposals else None,
            "layers": [],
        }
        for query, label, score, box in zip(
            found.queries.tolist(),
            found.labels.tolist(),
            found.scores.tolist(),
            fractions_to_pixels(found.boxes.float(), size).tolist(),
            strict=True,
        )
    ]
    of_layers = (*predictions.auxiliary, predictions)[: len(calls.decoder)]
    for call, of_layer in zip(calls.decoder, of_layers, strict=True):
        boxes = fractions_to_pixels(of_layer.boxes[0, found.queries].float(), size).tolist()
        scores = _scores(of_layer, detector.config.classification)[found.queries, found.labels]
        references = _references(call.references, size)
        points = _points(points_looked_at(call, found.queries), size)
        for row, box, score, query, of_query in zip(
            rows, boxes, scores.tolist(), found.queries.tolist(), points, strict=True
        ):
            row["layers"].append(
                {
                    "reference": references[query] if references else None,
                    "box": _rounded(box),
                    "score": round(score, 4),
                    "points": of_query,
                }
            )
    return {
        "image": {"width": size[1], "height": size[0]},
        "class_names": list(detector.class_names),
        "levels": _levels(calls),
        "kind": _kind(calls),
        "objects": rows,
        "proposals": proposals,
    }


@torch.inference_mode()
def look_from_pixel(
    detector: "Detector", image: UInt8[Tensor, "3 H W"], x: float | int, y: float | int
) -> dict[str, Any]:
    """Where the encoder's tokens at a pixel looked.

    Args:
        detector: With an encoder over a grid: any but the sparse ones (TSP).
        image: RGB, values in [0, 255].
        x: From the left edge of `image`, in pixels.
        y: From its top edge.

    Returns:
        - "pixel": [x, y];
        - "kind": as in `look`, of the encoder;
        - "tokens", one per level, the one whose cell holds the pixel: "level", "row", "column",
          "centre" [x, y], and "layers", those of the encoder, first first: {"points"} as in `look`.

    Raises:
        ValueError: If the pixel is not in the image, or the detector has no grid of tokens.
    """
    height, width = image.shape[1:]
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(
            f"the pixel ({x:g}, {y:g}) is not in the image: expected x in 0 to {width} and y in "
            f"0 to {height}, both from the top left corner."
        )
    if detector.config.selection.kind != "none":
        raise ValueError(
            "the encoder of this detector sees selected tokens, which lie on no grid: expected a "
            "detector of another kind than TSP to look from a pixel."
        )
    _, calls = _run(detector, image)
    assert calls.tokens is not None
    size = (height, width)
    cells, indices = _cells(calls.tokens, x / width, y / height, size)
    which = torch.tensor(indices, device=calls.tokens.features.device)
    layers = [_points(points_looked_at(call, which), size) for call in calls.encoder]
    for level, cell in enumerate(cells):
        cell["layers"] = [{"points": of_layer[level]} for of_layer in layers]
    deformable = calls.encoder and calls.encoder[0].deformable
    return {
        "pixel": [round(x, 1), round(y, 1)],
        "kind": "deformable" if deformable else "dense",
        "tokens": cells,
    }


def _run(detector: "Detector", image: UInt8[Tensor, "3 H W"]) -> tuple[Predictions, AttentionCalls]:
    """Exactly as the image is predicted, watched."""
    resized = resize_image(image, detector.config.input)
    with watch_attention(detector.model) as calls:
        predictions = detector.engine(resized[None])
    return predictions, calls


def _kind(calls: AttentionCalls) -> str:
    """Of the decoder, or where there is none of the encoder."""
    decisive = calls.decoder or calls.encoder
    return "deformable" if decisive and decisive[0].deformable else "dense"


def _levels(calls: AttentionCalls) -> list[dict[str, int]]:
    if not any(call.deformable for call in (*calls.encoder, *calls.decoder)):
        return []
    assert calls.tokens is not None
    return [{"height": height, "width": width} for height, width in calls.tokens.spatial_shapes]


def _scores(predictions: Predictions, classification: str) -> Float[Tensor, "Q K"]:
    logits = predictions.logits[0].float()
    return logits.sigmoid() if classification == "sigmoid" else logits.softmax(-1)[:, :-1]


def _proposals(proposals: Predictions | None, num_queries: int, size: Size) -> list[dict[str, Any]]:
    """Those that became queries, in the order of the queries, which is that of their scores."""
    if proposals is None:
        return []
    best = proposals.logits[0, :, 0].topk(num_queries)
    boxes = fractions_to_pixels(proposals.boxes[0, best.indices].float(), size)
    return [
        {"box": _rounded(box), "score": round(score, 4)}
        for box, score in zip(boxes.tolist(), best.values.float().sigmoid().tolist(), strict=True)
    ]


def _references(references: Float[Tensor, "B Q _"] | None, size: Size) -> list[list[float]]:
    if references is None:
        return []
    of_image = references[0].float()
    if of_image.shape[-1] == 4:
        return [_rounded(box) for box in fractions_to_pixels(of_image, size).tolist()]
    pixels = of_image * of_image.new_tensor([size[1], size[0]])
    return [_rounded(point) for point in pixels.tolist()]


def _points(points: Float[Tensor, "N P 5"], size: Size) -> list[list[list[float | int]]]:
    height, width = size
    return [
        [
            [round(x * width, 1), round(y * height, 1), round(weight, 4), int(level), int(head)]
            for x, y, weight, level, head in of_query
        ]
        for of_query in points.tolist()
    ]


def _cells(
    tokens: Tokens, x: float, y: float, size: Size
) -> tuple[list[dict[str, Any]], list[int]]:
    """The token of each level whose cell holds a place, fraction of image, and its index."""
    cells: list[dict[str, Any]] = []
    indices = []
    start = 0
    for level, (rows, columns) in enumerate(tokens.spatial_shapes):
        row, column = min(int(y * rows), rows - 1), min(int(x * columns), columns - 1)
        centre = [(column + 0.5) / columns * size[1], (row + 0.5) / rows * size[0]]
        cells.append({"level": level, "row": row, "column": column, "centre": _rounded(centre)})
        indices.append(start + row * columns + column)
        start += rows * columns
    return cells, indices


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 1) for value in values]
