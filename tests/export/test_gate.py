import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from saccade.export.gate import Tolerance, Verdict, first_departure, judge, probes_of
from saccade.export.program import WholeDetector
from saccade.inference.engine import TorchEngine
from saccade.model import DetectorModel
from saccade.structures import Predictions
from tests.conftest import small_config

IMAGES = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
TOLERANCE = Tolerance(difference=1e-3, ap=0.5)


class Changed(TorchEngine):
    """An engine whose predictions are changed before anybody sees them."""

    def __init__(self, engine: TorchEngine, change: object) -> None:
        super().__init__(engine.config, engine.model)
        self.change = change

    def __call__(self, images: Tensor) -> Predictions:
        return self.change(super().__call__(images))


@pytest.fixture(params=["two-stage", "detr"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engine(kind: str, model: DetectorModel) -> TorchEngine:
    return TorchEngine(small_config(kind), model)


def verdict_of(engine: TorchEngine, change: object, ap: tuple[float, float] | None) -> Verdict:
    return judge(Changed(engine, change), engine, [IMAGES], TOLERANCE, ap)


def test_the_same_detector_passes(engine: TorchEngine) -> None:
    verdict = verdict_of(engine, lambda found: found, None)
    assert verdict.passed
    assert not verdict.reason
    assert max(each.largest for each in verdict.differences) == 0


def test_queries_in_another_order_say_the_same(engine: TorchEngine) -> None:
    def turn(found: Predictions) -> Predictions:
        return replace(found, logits=found.logits.flip(1), boxes=found.boxes.flip(1))

    assert verdict_of(engine, turn, None).passed


def test_boxes_that_move_fail_and_the_reason_says_by_how_much(engine: TorchEngine) -> None:
    verdict = verdict_of(engine, lambda found: replace(found, boxes=found.boxes + 0.01), None)
    assert not verdict.passed
    assert verdict.reason.startswith("boxes differ by 1.0e-02, more than 0.001")


def test_what_is_not_a_number_fails_whatever_ap_says(engine: TorchEngine) -> None:
    def spoil(found: Predictions) -> Predictions:
        return replace(found, logits=torch.full_like(found.logits, math.nan))

    verdict = verdict_of(engine, spoil, (50.0, 50.0))
    assert not verdict.passed
    assert "not a number" in verdict.reason


@pytest.mark.parametrize(("after", "passes"), [(49.6, True), (49.4, False), (51.0, True)])
def test_where_ap_is_known_it_decides(engine: TorchEngine, after: float, passes: bool) -> None:
    def move(found: Predictions) -> Predictions:
        return replace(found, boxes=found.boxes + 0.01)

    verdict = verdict_of(engine, move, (50.0, after))
    assert verdict.passed is passes
    assert ("AP falls by 0.60 points" in verdict.reason) is not passes


@pytest.mark.parametrize("place", ["backbone", "encoder.layers.0", "decoder.layers.1"])
def test_the_first_layer_that_departs_is_named(engine: TorchEngine, place: str) -> None:
    probes = probes_of(engine.model)
    index = probes.index(place)

    @torch.inference_mode()
    def damaged(images: Tensor) -> list[np.ndarray]:
        outputs = list(WholeDetector(engine.config, engine.model, probes)(images))
        for later in range(2 + index, len(outputs)):
            outputs[later] = outputs[later] * 1.1
        return [output.numpy() for output in outputs]

    found = first_departure(damaged, engine.model, engine, probes, IMAGES, 1e-3)
    assert found is not None
    assert found.startswith(f"{place} (by 1.0e-01")


def test_nothing_departs_where_nothing_is_damaged(engine: TorchEngine) -> None:
    probes = probes_of(engine.model)
    with torch.inference_mode():
        outputs = WholeDetector(engine.config, engine.model, probes)(IMAGES)
    assert first_departure(lambda _: outputs, engine.model, engine, probes, IMAGES, 1e-3) is None
