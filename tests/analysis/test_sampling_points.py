import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from saccade.analysis.attention_calls import AttentionCall, points_looked_at, watch_attention
from saccade.analysis.sampling_points import look, look_from_pixel
from saccade.boxes import fractions_to_pixels
from saccade.config import DetectorConfig
from saccade.data import resize_image
from saccade.inference import Detector
from saccade.model import DetectorModel, select
from tests.conftest import small_config

WIDTH, HEIGHT = 90, 60


def image() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=generator)


def detector_of(config: DetectorConfig) -> Detector:
    torch.manual_seed(0)
    model = DetectorModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return Detector(replace(config, input=replace(config.input, short_side=64)), model)


@pytest.fixture
def detector(kind: str) -> Detector:
    return detector_of(small_config(kind))


def near(values: list[float], tensor: Tensor) -> bool:
    return values == pytest.approx(tensor.tolist(), abs=0.051)


def test_boxes_scores_and_proposals_are_the_detectors_own(detector: Detector, kind: str) -> None:
    seen = look(detector, image(), top_k=7)
    with torch.no_grad():
        predictions = detector.engine(resize_image(image(), detector.config.input)[None])
    (found,) = select(predictions, detector.config.classification, 7)
    assert [each["query"] for each in seen["objects"]] == found.queries.tolist()
    assert [each["label"] for each in seen["objects"]] == found.labels.tolist()
    size = (HEIGHT, WIDTH)
    of_layers = (*predictions.auxiliary, predictions)
    for row, box in zip(seen["objects"], found.boxes, strict=True):
        assert near(row["box"], fractions_to_pixels(box, size))
        assert row["class"] == detector.class_names[row["label"]]
        assert len(row["layers"]) == len(detector.model.decoder.layers)
        for layer, of_layer in zip(row["layers"], of_layers, strict=False):
            expected = fractions_to_pixels(of_layer.boxes[0, row["query"]], size)
            assert near(layer["box"], expected)
        if row["layers"]:
            assert row["layers"][-1]["box"] == row["box"]
            assert row["layers"][-1]["score"] == row["score"]
    if predictions.proposals is None:
        assert seen["proposals"] == []
        assert all(each["proposal"] is None for each in seen["objects"])
    else:
        best = predictions.proposals.logits[0, :, 0].topk(len(seen["proposals"]))
        boxes = fractions_to_pixels(predictions.proposals.boxes[0, best.indices], size)
        assert len(seen["proposals"]) == detector.config.queries.num_queries
        for row, box in zip(seen["proposals"], boxes, strict=True):
            assert near(row["box"], box)
        for row in seen["objects"]:
            # A query starts from its proposal.
            assert row["proposal"]["box"] == row["layers"][0]["reference"]
    assert json.loads(json.dumps(seen)) == seen
    assert (seen["kind"] == "deformable") == (kind in ("two-stage", "learned"))


def test_weights_of_a_head_sum_to_one_and_levels_are_told() -> None:
    detector = detector_of(small_config("two-stage"))
    seen = look(detector, image(), top_k=3)
    num_levels = detector.config.num_levels
    assert len(seen["levels"]) == num_levels
    assert seen["levels"][0]["width"] > seen["levels"][1]["width"]
    heads = detector.config.decoder.num_heads
    points = detector.config.decoder.num_points
    for layer in seen["objects"][0]["layers"]:
        assert len(layer["points"]) == heads * points * num_levels
        for head in range(heads):
            of_head = [point for point in layer["points"] if point[4] == head]
            assert sum(point[2] for point in of_head) == pytest.approx(1, abs=1e-3)
            assert [point[3] for point in of_head] == sorted(list(range(num_levels)) * points)


def test_refinement_starts_each_layer_from_the_box_before() -> None:
    layers = look(detector_of(small_config("two-stage")), image(), 1)["objects"][0]["layers"]
    for before, after in pairwise(layers):
        assert after["reference"] == before["box"]


def test_a_learned_query_starts_from_a_point_and_detr_from_nothing() -> None:
    config = small_config("learned")
    learned = detector_of(replace(config, decoder=replace(config.decoder, refined=False)))
    for layer in look(learned, image(), 1)["objects"][0]["layers"]:
        assert len(layer["reference"]) == 2
    for layer in look(detector_of(small_config("detr")), image(), 1)["objects"][0]["layers"]:
        assert layer["reference"] is None
        assert layer["points"]


def test_points_are_in_pixels_of_the_image_as_given() -> None:
    """The image is resized for the detector; its points are fractions of either."""
    detector = detector_of(small_config("two-stage"))
    (seen,) = look(detector, image(), 1)["objects"]
    resized = resize_image(image(), detector.config.input)
    assert resized.shape[1:] != image().shape[1:]
    with torch.inference_mode(), watch_attention(detector.model) as calls:
        detector.engine(resized[None])
    for layer, call in zip(seen["layers"], calls.decoder, strict=True):
        points = points_looked_at(call, torch.tensor([seen["query"]]))[0]
        expected = points * torch.tensor([WIDTH, HEIGHT, 1, 1, 1])
        assert torch.tensor(layer["points"]).sub(expected).abs().max() < 0.051
        assert near(
            layer["reference"], fractions_to_pixels(reference_of(call, seen), (HEIGHT, WIDTH))
        )


def reference_of(call: AttentionCall, seen: dict[str, Any]) -> Tensor:
    assert call.references is not None
    return call.references[0, seen["query"]]


def test_tokens_of_every_level_at_a_pixel(detector: Detector, kind: str) -> None:
    if kind.startswith("tsp"):
        with pytest.raises(ValueError, match="selected tokens, which lie on no grid"):
            look_from_pixel(detector, image(), 10, 10)
        return
    seen = look_from_pixel(detector, image(), 70.0, 10.0)
    assert seen["pixel"] == [70.0, 10.0]
    deformable = kind in ("two-stage", "learned")
    assert seen["kind"] == ("deformable" if deformable else "dense")
    assert [token["level"] for token in seen["tokens"]] == list(range(detector.config.num_levels))
    levels = look(detector, image(), 1)["levels"]
    heads = detector.config.encoder.num_heads
    for token in seen["tokens"]:
        assert len(token["layers"]) == len(detector.model.encoder.layers)
        for layer in token["layers"]:
            weights = [sum(p[2] for p in layer["points"] if p[4] == head) for head in range(heads)]
            assert all(0 < weight <= 1.001 for weight in weights)
            if deformable:
                assert weights == pytest.approx([1] * heads, abs=1e-3)
        if deformable:
            size = levels[token["level"]]
            assert abs(token["centre"][0] - 70) <= WIDTH / size["width"] / 2 + 0.1
            assert abs(token["centre"][1] - 10) <= HEIGHT / size["height"] / 2 + 0.1
    assert json.loads(json.dumps(seen)) == seen


def test_a_token_that_looks_at_its_own_level_alone() -> None:
    config = small_config("learned")
    encoder = replace(config.encoder, across_levels=False)
    seen = look_from_pixel(detector_of(replace(config, encoder=encoder)), image(), 50, 30)
    for token in seen["tokens"]:
        for layer in token["layers"]:
            assert {point[3] for point in layer["points"]} == {token["level"]}


@pytest.mark.parametrize("pixel", [(-1, 3), (3, HEIGHT), (WIDTH, 3), (float("nan"), 3)])
def test_a_pixel_outside_of_the_image_is_refused(pixel: tuple[float, float]) -> None:
    detector = detector_of(small_config("two-stage"))
    with pytest.raises(ValueError, match="not in the image: expected x in 0 to 90 and y in 0 to"):
        look_from_pixel(detector, image(), *pixel)


def test_no_objects_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="top_k is 0"):
        look(detector_of(small_config("two-stage")), image(), 0)
