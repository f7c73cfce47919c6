"""What a server would answer about an image of 200 x 100 pixels."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Request

from saccade.serve.app import VIEWER
from tests.serve.viewer.chromium import Answer

NAMES = ["cat", "<img src=x onerror=alert(1)>"]
LEVELS = [{"height": 10, "width": 20}, {"height": 5, "width": 10}]
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def layer(box: list[float], score: float, shift: float) -> dict[str, Any]:
    """A layer with five points: three on the finest level, two on the next; of two heads."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    points = [
        [x, y, 0.5, 0, 0],
        [x + 8, y, 0.2, 0, 1],
        [x, y + 8, 0.1, 0, 1],
        [x - 8, y, 0.1, 1, 0],
        [x, y - 200, 0.1, 1, 1],
    ]
    moved = [value + shift for value in box]
    return {"reference": moved, "box": box, "score": score, "points": points}


def found(query: int, label: int, score: float, box: list[float]) -> dict[str, Any]:
    """An object that two layers have found."""
    layers = [layer([value + 6 for value in box], score / 2, 9), layer(box, score, 6)]
    proposal = {"box": [value + 9 for value in box], "score": 0.3}
    what = {"query": query, "label": label, "class": NAMES[label], "score": score, "box": box}
    return {**what, "proposal": proposal, "layers": layers}


def look(dense: bool = False) -> dict[str, Any]:
    """The answer of /look; of the dense model, one layer and one object a little aside."""
    objects = [
        found(7, 0, 0.9, [20, 20, 80, 80]),
        found(3, 1, 0.6, [120, 30, 180, 90]),
        found(5, 0, 0.4, [40, 40, 60, 60]),
        found(9, 0, 0.1, [0, 0, 20, 20]),
    ]
    if dense:
        objects = [found(2, 0, 0.8, [25, 25, 85, 85])]
        objects[0] |= {"layers": objects[0]["layers"][1:], "proposal": None}
    return {
        "image": {"width": 200, "height": 100},
        "class_names": NAMES,
        "levels": [] if dense else LEVELS,
        "kind": "dense" if dense else "deformable",
        "objects": objects,
        "proposals": [] if dense else [each["proposal"] for each in objects],
    }


def look_from_pixel(x: float, y: float) -> dict[str, Any]:
    """The answer of /look/pixel: a token of each level, one layer."""
    tokens = [
        {"level": level, "row": 0, "column": 0, "centre": [x, y], "layers": [layer([x] * 4, 1, 0)]}
        for level in range(2)
    ]
    return {"pixel": [x, y], "kind": "deformable", "tokens": tokens}


MODELS = [
    {"name": name, "class_names": NAMES, "threshold": 0.3, "explains": explains}
    for name, explains in (("first", True), ("second", True), ("exported", False))
]


def file(path: str) -> Answer:
    """A file of the viewer, as the server sends it."""
    place = VIEWER / (path.removeprefix("/viewer/") if path != "/" else "index.html")
    return 200, {"content-type": TYPES[place.suffix[1:]]}, place.read_bytes()


def answer(content: object, status: int = 200) -> Answer:
    """JSON."""
    return status, {"content-type": "application/json"}, json.dumps(content).encode()


def respond(request: Request) -> Answer:
    """What a server with these models answers."""
    address = urlsplit(request.url)
    query = {name: values[0] for name, values in parse_qs(address.query).items()}
    if address.path == "/models":
        return answer(MODELS)
    if address.path == "/look":
        return answer(look(dense=query["model"] == "second"))
    if address.path == "/look/pixel":
        return answer(look_from_pixel(float(query["x"]), float(query["y"])))
    if address.path == "/predict":
        one = {"class": "cat", "label": 0, "score": 0.7, "box": [20, 20, 80, 80]}
        size = {"width": 200, "height": 100}
        return answer({"model": query["model"], "image": size, "detections": [one]})
    return file(address.path)
