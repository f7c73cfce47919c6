from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from saccade import Detector
from saccade.config import DetectorConfig
from saccade.data import prepare_image, resize_image
from saccade.inference.augmented import make_views
from saccade.inference.engine import TorchEngine
from saccade.inference.looking import Looking, SeveralViews, Shown, WholeImage, show
from saccade.inference.reading import Unreadable
from saccade.inference.stream import WAITING_BATCHES, NotSeen, Seen, look_at_all
from saccade.inference.tiles import Tiles
from saccade.inference.wanted import Wanted
from saccade.model import DetectorModel, Found, select
from saccade.structures import Batch, Predictions
from tests.conftest import small_config

SIZES = [(60, 90), (90, 60), (60, 90), (50, 50), (60, 90), (64, 200), (90, 60), (60, 90)]
EVERYTHING = Wanted(threshold=0.0, top_k=1000)


def config() -> DetectorConfig:
    small = small_config("learned")
    return replace(small, input=replace(small.input, short_side=64, max_side=128))


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    torch.manual_seed(0)
    model = DetectorModel(config()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return TorchEngine(config(), model)


@pytest.fixture(scope="module")
def pictures() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in SIZES
    ]


class Watched:
    """An engine that notes its batches."""

    def __init__(self, engine: TorchEngine) -> None:
        self.engine = engine
        self.batches: list[Tensor] = []

    @property
    def config(self) -> DetectorConfig:
        return self.engine.config

    def __call__(self, images: Tensor) -> Predictions:
        self.batches.append(images)
        return self.engine(images)


def look(
    engine: TorchEngine | Watched,
    pictures: Sequence[Tensor],
    batch_size: int,
    looking: Looking | None = None,
    most_bytes: int = 2**30,
) -> list[Found]:
    looking = looking or WholeImage()
    images = [(key, show(each, engine.config.input, looking)) for key, each in enumerate(pictures)]
    seen = list(look_at_all(engine, images, looking, EVERYTHING, batch_size, most_bytes))
    assert [each.key for each in seen] == list(range(len(pictures)))
    return [each.found for each in seen if isinstance(each, Seen)]


def assert_same(found: Found, other: Found, tolerance: float = 1e-5) -> None:
    """Compared query by query: the order of scores that are almost equal may differ."""
    orders = [torch.argsort(each.queries * 1000 + each.labels) for each in (found, other)]
    for name in ("boxes", "scores"):
        one, two = (
            getattr(each, name)[order] for each, order in zip((found, other), orders, strict=True)
        )
        torch.testing.assert_close(one, two, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("looking", "batch_size"),
    [
        (WholeImage(), 3),
        (WholeImage(), 8),
        (Tiles(56, 0.25), 3),
        (SeveralViews(tuple(make_views([1.0, 0.75]))), 8),
    ],
    ids=["whole-3", "whole-8", "tiles-3", "views-8"],
)
def test_results_do_not_depend_on_the_batch_size(
    looking: Looking, batch_size: int, engine: TorchEngine, pictures: list[Tensor]
) -> None:
    few = pictures if isinstance(looking, WholeImage) else pictures[1:5]
    results = (look(engine, few, size, looking) for size in (1, batch_size))
    for one, other in zip(*results, strict=True):
        if isinstance(looking, WholeImage):
            assert_same(one, other)
        else:
            # What is merged or fused keeps the best-scored query, which may be another of two.
            assert len(one.scores) == len(other.scores)
            torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=1e-5)


def test_images_padded_together_would_give_other_results(
    engine: TorchEngine, pictures: list[Tensor]
) -> None:
    """That the test above could fail."""
    two = [prepare_image(each, engine.config.input) for each in pictures[:2]]
    with torch.inference_mode():
        together = select(engine.model(Batch.from_images(two)), "sigmoid", 1000)
    for found, alone in zip(together, look(engine, pictures[:2], 1), strict=True):
        with pytest.raises(AssertionError):
            assert_same(found, alone, tolerance=1e-4)


def test_every_batch_holds_resized_images_and_nothing_else(
    engine: TorchEngine, pictures: list[Tensor]
) -> None:
    watched = Watched(engine)
    look(watched, pictures, 3)
    resized = [resize_image(each, engine.config.input) for each in pictures]
    shown = [image for batch in watched.batches for image in batch]
    assert len(shown) == len(pictures)
    for image in resized:
        assert sum(image.shape == other.shape and bool((image == other).all()) for other in shown)
    assert [len(batch) for batch in watched.batches] == [3, 2, 1, 1, 1]


def test_the_predictor_gives_the_same_at_any_batch_size(
    engine: TorchEngine, pictures: list[Tensor]
) -> None:
    detector = Detector(engine.config, engine.model)
    one, three, eight = (
        detector.predict(pictures, threshold=0.0, batch_size=size) for size in (1, 3, 8)
    )
    for first, *others in zip(one, three, eight, strict=True):
        for other in others:
            np.testing.assert_allclose(first.confidence, other.confidence, atol=1e-5)
            np.testing.assert_allclose(first.xyxy.sum(0), other.xyxy.sum(0), rtol=1e-4, atol=1e-2)
    assert detector.predict([], batch_size=4) == []


def test_unreadable_images_keep_their_place(engine: TorchEngine, pictures: list[Tensor]) -> None:
    looking = WholeImage()
    bad = ValueError("broken")
    images: list[tuple[int, Shown | Unreadable]] = [
        (key, show(each, engine.config.input, looking)) for key, each in enumerate(pictures)
    ]
    images[0], images[3], images[7] = (0, bad), (3, bad), (7, OSError("gone"))
    answers = list(look_at_all(engine, images, looking, EVERYTHING, 4))
    assert [answer.key for answer in answers] == list(range(len(pictures)))
    assert [answer.key for answer in answers if isinstance(answer, NotSeen)] == [0, 3, 7]


def test_an_image_of_a_rare_size_is_not_waited_for_for_ever(
    engine: TorchEngine, pictures: list[Tensor]
) -> None:
    rare, common = pictures[3], pictures[0]
    looking = WholeImage()
    given = 0

    def images() -> Iterator[tuple[int, Shown]]:
        nonlocal given
        for key in range(30):
            given += 1
            yield key, show(rare if key == 0 else common, engine.config.input, looking)

    first = next(look_at_all(engine, images(), looking, EVERYTHING, 2))
    assert first.key == 0
    assert given == 2 * WAITING_BATCHES + 1


def test_a_small_image_that_is_enlarged_weighs_what_is_made_of_it(engine: TorchEngine) -> None:
    shown = show(torch.zeros(3, 8, 8, dtype=torch.uint8), engine.config.input, WholeImage())
    assert shown.num_bytes == 3 * 8 * 8 + 3 * 64 * 64


def test_large_images_wait_less(engine: TorchEngine, pictures: list[Tensor]) -> None:
    watched = Watched(engine)
    look(watched, pictures, 8, most_bytes=0)
    assert [len(batch) for batch in watched.batches] == [1] * len(pictures)
