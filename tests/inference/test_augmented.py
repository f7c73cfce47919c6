from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from saccade.config import InputConfig
from saccade.inference.augmented import AugmentedModel, View, fuse, make_views
from saccade.model import Found
from saccade.structures import Batch, Predictions
from tests.conftest import small_config
from tests.evaluation.test_evaluate import OnAppleGpu

VIEWS = make_views([1.0, 0.5, 1.7], horizontal=True, vertical=True)


def found(boxes: list[list[float]], scores: list[float], labels: list[int] | None = None) -> Found:
    count = len(scores)
    return Found(
        torch.tensor(boxes).reshape(-1, 4),
        torch.tensor(scores),
        torch.tensor(labels if labels is not None else [0] * count, dtype=torch.int64),
        torch.arange(count),
    )


class SeesBrightRectangle(nn.Module):
    """Knows one object of class 1: where pixels are bright."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, batch: Batch) -> Predictions:
        self.shapes.append(tuple(batch.images.shape[-2:]))
        (image,) = batch.images
        height, width = batch.sizes[0]
        rows, columns = ((image[0] > 0.5).any(axis).nonzero()[:, 0] for axis in (1, 0))
        y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        box = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0), (y1 - y0)])
        boxes = (box / torch.tensor([width, height, width, height]))[None, None]
        return Predictions(torch.tensor([[[-9.0, 2.0]]]), boxes)


def bright_rectangle() -> Tensor:
    """In rows 20 to 60 of 160 and columns 80 to 200 of 240."""
    pixels = torch.zeros(3, 160, 240, dtype=torch.uint8)
    pixels[:, 20:60, 80:200] = 255
    return pixels


INPUT = InputConfig(short_side=160, max_side=240, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_every_view_finds_the_object_where_it_is(view: View) -> None:
    model = SeesBrightRectangle()
    look = AugmentedModel(model, replace(small_config("learned"), input=INPUT), [view])
    seen = look(bright_rectangle(), torch.device("cpu"))
    expected = torch.tensor([[140 / 240, 40 / 160, 120 / 240, 40 / 160]])
    assert seen.boxes[:1] == pytest.approx(expected, abs=0.01)
    assert seen.labels[0] == 1
    assert model.shapes == [(round(160 * view.scale), round(240 * view.scale))]


def test_the_views_differ_until_they_are_turned_back() -> None:
    pixels = torch.randint(0, 256, (3, 160, 240), dtype=torch.uint8)
    shown = [view.prepare(pixels, INPUT) for view in VIEWS[:3]]
    assert torch.equal(shown[1].flip(-1), shown[0])
    assert torch.equal(shown[2].flip(-2), shown[0])
    assert not any(torch.equal(shown[0], each) for each in shown[1:])


def test_turning_back_twice_changes_nothing() -> None:
    boxes = torch.rand(9, 4, dtype=torch.float64)
    for view in VIEWS:
        assert view.back(view.back(boxes)) == pytest.approx(boxes, abs=1e-15)


def test_what_all_views_find_is_one_object_with_the_mean_box() -> None:
    one = found([[0.5, 0.5, 0.2, 0.2]], [0.9])
    other = found([[0.52, 0.5, 0.2, 0.2]], [0.3])
    fused = fuse([one, other])
    assert fused.boxes[0].tolist() == pytest.approx([0.505, 0.5, 0.2, 0.2], abs=1e-6)
    assert fused.scores.tolist() == pytest.approx([0.6])


def test_what_one_view_of_two_finds_is_half_as_sure() -> None:
    fused = fuse([found([[0.5, 0.5, 0.2, 0.2]], [0.9]), found([], [])])
    assert fused.scores.tolist() == pytest.approx([0.45])


def test_classes_are_fused_apart_and_neighbours_of_one_view_stay_two() -> None:
    near = [[0.5, 0.5, 0.2, 0.2], [0.51, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2]]
    fused = fuse([found(near, [0.9, 0.8, 0.7], [0, 0, 1])] * 2)
    assert fused.labels.tolist() == [0, 0, 1]
    assert fused.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert fused.boxes == pytest.approx(torch.tensor(near), abs=1e-6)
    assert fused.queries.tolist() == [0, 1, 2]


def test_only_the_best_are_kept() -> None:
    apart = [[0.1 * k, 0.1 * k, 0.05, 0.05] for k in range(1, 6)]
    fused = fuse([found(apart, [0.1, 0.2, 0.3, 0.4, 0.5])] * 2, top_k=2)
    assert fused.scores.tolist() == pytest.approx([0.5, 0.4])


def test_boxes_without_area_or_score_are_fused_without_a_word() -> None:
    flat = found([[0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.1, 0.1]], [0.5, 0.0])
    fused = fuse([flat, flat])
    assert fused.boxes.isfinite().all()
    assert fused.scores.max() == pytest.approx(0.25)


def test_a_scale_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the scale of a view is 0\.0: expected 0\.1 to 10"):
        make_views([0.0])
    with pytest.raises(ValueError, match="no scales to look at"):
        make_views([])


def test_views_are_fused_on_a_device_without_float64() -> None:
    one = found([[0.5, 0.5, 0.2, 0.2]], [0.9])
    there = Found(*(part.as_subclass(OnAppleGpu) for part in vars(one).values()))
    fused = fuse([there, there])
    assert fused.boxes.dtype == fused.scores.dtype == torch.float32
    assert fused.scores.tolist() == pytest.approx([0.9])
