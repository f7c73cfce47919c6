"""From a request to its answer, without the words of HTTP around it."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import UInt8
from starlette.requests import Request
from torch import Tensor

from saccade.boxes import fractions_to_pixels
from saccade.data import resize_image
from saccade.inference import Detector
from saccade.model import Found
from saccade.serve.batching import Batcher
from saccade.serve.bodies import extract_image
from saccade.serve.metrics import Metrics
from saccade.serve.patience import while_awaited
from saccade.serve.pictures import check_resized, decode
from saccade.serve.refusals import Refusal
from saccade.serve.served import Look, LookFromPixel, Served
from saccade.serve.settings import Limits
from saccade.serve.uploads import Uploads
from saccade.serve.workers import Workers

DECODERS = 2
"""Threads that decode images; each may hold one of the largest size several times over."""


class Service:
    """The models, their queues, and the threads that run them."""

    def __init__(
        self,
        models: Sequence[Served],
        limits: Limits,
        metrics: Metrics,
        look: Look | None,
        look_from_pixel: LookFromPixel | None,
    ) -> None:
        self.models = {served.name: served for served in models}
        self.limits = limits
        self.uploads = Uploads(limits)
        self._look = look
        self._look_from_pixel = look_from_pixel
        self._looks = 0
        # One: two would take the cores, or the GPU's memory, from each other.
        self._inference = Workers(1, "inference")
        self._decoding = Workers(DECODERS, "decoding")
        self._batchers = {
            served.name: Batcher(served.name, served.engine, limits, self._inference, metrics)
            for served in models
        }
        metrics.watch_uploads(lambda: self.uploads.held)

    def describe(self) -> list[dict[str, Any]]:
        """What can be asked of which model."""
        return [
            {
                "name": served.name,
                "class_names": list(served.engine.config.class_names),
                "threshold": self.limits.threshold,
                "explains": served.detector is not None and self._look is not None,
            }
            for served in self.models.values()
        ]

    def model(self, name: str | None) -> Served:
        """The model of this name; the first one if none is named.

        Raises:
            Refusal: If there is no such model.
        """
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            names = ", ".join(self.models)
            raise Refusal(
                404, f'there is no model "{name[:80]}": expected one of {names}.', "model"
            )
        return self.models[name]

    async def predict(
        self, request: Request, served: Served, threshold: float | None, top_k: int
    ) -> bytes:
        """Detections as JSON; boxes are ``x0, y0, x1, y1`` in pixels of the image.

        Raises:
            Refusal: If the request cannot be answered.
        """
        start = time.perf_counter()
        batcher = self._batchers[served.name]
        batcher.check_room()
        async with self.uploads.body(request) as body:
            with batcher.place():
                found, size = await while_awaited(
                    request, self._find(request, served, batcher, body), self.limits.timeout
                )
        least = self.limits.threshold if threshold is None else threshold
        answer = {
            "model": served.name,
            "image": {"width": size[1], "height": size[0]},
            "detections": to_rows(found, size, least, top_k, served.engine.config.class_names),
            "milliseconds": round(1000 * (time.perf_counter() - start), 1),
        }
        return _json(answer)

    async def _find(
        self, request: Request, served: Served, batcher: Batcher, body: bytes
    ) -> tuple[Found, tuple[int, int]]:
        def resized() -> tuple[Tensor, tuple[int, int]]:
            image = self._decode(request, served, body)
            return resize_image(image, served.engine.config.input), (*image.shape[1:],)

        image, size = await self._decoding.run(resized)
        return await batcher.find(image), size

    def _decode(self, request: Request, served: Served, body: bytes) -> UInt8[Tensor, "3 H W"]:
        of_body = (request.headers.get(name, "") for name in ("content-type", "content-encoding"))
        content_type, encoding = of_body
        image = decode(extract_image(content_type, body, encoding), self.limits.max_megapixels)
        check_resized((image.shape[1], image.shape[2]), served.engine.config.input)
        return image

    async def look(self, request: Request, served: Served, top_k: int) -> bytes:
        """Where the queries of the best detections looked, as JSON.

        Raises:
            Refusal: If the request cannot be answered.
        """
        look = self._look
        detector = _explaining(served, look)
        assert look is not None
        return await self._explain(request, served, lambda image: look(detector, image, top_k))

    async def look_from_pixel(self, request: Request, served: Served, x: float, y: float) -> bytes:
        """Where the encoder's tokens at a pixel looked, as JSON.

        Raises:
            Refusal: If the request cannot be answered.
        """
        look = self._look_from_pixel
        detector = _explaining(served, look)
        assert look is not None
        return await self._explain(request, served, lambda image: look(detector, image, x, y))

    async def _explain(
        self, request: Request, served: Served, explain: Callable[[Tensor], Mapping[str, Any]]
    ) -> bytes:
        self._check_looks()
        async with self.uploads.body(request) as body:
            self._check_looks()
            self._looks += 1
            try:
                work = self._explained(served, explain, request, body)
                return await while_awaited(request, work, self.limits.timeout)
            finally:
                self._looks -= 1

    async def _explained(
        self,
        served: Served,
        explain: Callable[[Tensor], Mapping[str, Any]],
        request: Request,
        body: bytes,
    ) -> bytes:
        image = await self._decoding.run(lambda: self._decode(request, served, body))

        def answer() -> bytes:
            try:
                explained = explain(image)
            except ValueError as error:
                raise Refusal(422, str(error), "look") from error
            return _json(explained)

        return await self._inference.run(answer)

    def _check_looks(self) -> None:
        if self._looks >= self.limits.max_looks:
            raise Refusal(
                429,
                f"{self._looks} requests to look into a detector wait already: try again.",
                "looks",
                1.0,
            )


def _explaining(served: Served, look: object) -> Detector:
    if served.detector is None or look is None:
        raise Refusal(
            409,
            f"{served.name} does not tell where it looks: serve it with --runtime torch.",
            "look",
        )
    return served.detector


def to_rows(
    found: Found, size: tuple[int, int], threshold: float, top_k: int, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """What was found with at least this score, for JSON: best first, boxes in pixels.

    Args:
        found: In one image of `size`.
        size: (height, width) of the image in pixels.
        threshold: Lowest score that is kept.
        top_k: Most that are kept.
        class_names: What the labels stand for.
    """
    sure = (found.scores >= threshold) & (torch.arange(len(found.scores)) < top_k)
    boxes = fractions_to_pixels(found.boxes[sure], size)
    rows = zip(
        found.labels[sure].tolist(), found.scores[sure].tolist(), boxes.tolist(), strict=True
    )
    return [
        {
            "class": class_names[label],
            "label": label,
            "score": round(score, 4),
            "box": [round(side, 2) for side in box],
        }
        for label, score, box in rows
    ]


def _json(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(answer, ensure_ascii=False, allow_nan=False).encode()
