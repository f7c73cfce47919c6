import math

import torch

from saccade.restricted_matching import may_answer
from saccade.structures import Origins, Targets


def objects(*corners: tuple[float, float, float, float], size: tuple[int, int]) -> Targets:
    boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
    return Targets(boxes, torch.zeros(len(boxes), dtype=torch.int64), size)


def points(*places: tuple[float, float], side: float, least: float, greatest: float) -> Origins:
    boxes = torch.tensor([[(x, y, side, side) for x, y in places]])
    return Origins(boxes, torch.tensor([[[least, greatest]] * len(places)]))


def test_a_point_answers_for_boxes_that_contain_it() -> None:
    found = may_answer(
        points((0.5, 0.5), (0.2, 0.5), (0.39, 0.61), side=0.4, least=0.0, greatest=1.0),
        [objects((30, 30, 60, 70), (10, 40, 35, 60), size=(100, 100))],
    )
    assert found[0].tolist() == [[True, False], [False, True], [True, False]]


def test_the_edge_of_a_box_is_not_inside() -> None:
    origins = points((0.5, 0.5), side=0.5, least=0.0, greatest=1.0)
    target = objects((50, 40, 60, 60), (49, 40, 60, 60), size=(100, 100))
    assert may_answer(origins, [target])[0].tolist() == [[False, True]]


def test_a_point_answers_for_boxes_of_its_level_alone() -> None:
    """From the centre of an image of 128 pixels, edges 16, 17, 32 and 33 pixels away."""
    corners = [(64 - edge, 60, 68, 68) for edge in (16, 17, 32, 33)]
    target = objects(*corners, size=(128, 128))
    middle = points((0.5, 0.5), side=32 / 128, least=0.5, greatest=1.0)
    assert may_answer(middle, [target])[0].tolist() == [[False, True, True, False]]
    finest = points((0.5, 0.5), side=16 / 128, least=0.0, greatest=1.0)
    assert may_answer(finest, [target])[0].tolist() == [[True, False, False, False]]
    coarsest = points((0.5, 0.5), side=64 / 128, least=0.5, greatest=math.inf)
    assert may_answer(coarsest, [target])[0].tolist() == [[False, False, False, True]]


def test_distances_are_pixels_in_images_that_are_not_square() -> None:
    """A side is as many pixels wide as high, but another fraction of the image."""
    boxes = torch.tensor([[[0.5, 0.5, 32 / 200, 32 / 100]]])
    origins = Origins(boxes, torch.tensor([[[0.5, 1.0]]]))
    target = objects((80, 45, 110, 55), (95, 20, 105, 60), (60, 45, 110, 55), size=(100, 200))
    assert may_answer(origins, [target])[0].tolist() == [[True, True, False]]


def test_a_proposal_answers_for_boxes_that_it_overlaps_by_more_than_half() -> None:
    origins = Origins(torch.tensor([[[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.0, 0.0]]]))
    target = objects((25, 25, 75, 50), (25, 25, 75, 51), (24, 20, 80, 80), size=(100, 100))
    assert may_answer(origins, [target])[0].tolist() == [[False, True, True], [False] * 3]


def test_every_image_has_its_own_objects() -> None:
    origins = Origins(torch.tensor([[[0.5, 0.5, 1.0, 1.0]]]).repeat(3, 1, 1))
    whole = (0.0, 0.0, 10.0, 20.0)
    targets = [objects(whole, whole, size=(20, 10)), objects(size=(20, 10))]
    targets.append(objects(whole, size=(200, 100)))
    assert [found.tolist() for found in may_answer(origins, targets)] == [
        [[True, True]],
        [[]],
        [[False]],
    ]
