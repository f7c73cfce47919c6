import numpy as np
import torch

from saccade.inference.merging import _objects, merge
from saccade.model import Found

SIZE = (100, 180)
LEFT, RIGHT, WHOLE = (0, 0, 100, 100), (80, 0, 180, 100), (0, 0, 180, 100)


def view(
    window: tuple[int, int, int, int], *rows: tuple[float, float, float, float, float, int]
) -> Found:
    """Detections of a view: corners in pixels of the image, score, label."""
    table = torch.tensor([row[:4] for row in rows], dtype=torch.float32).reshape(-1, 4)
    left, top, right, bottom = window
    x0, y0, x1, y1 = (table - torch.tensor([left, top, left, top])).unbind(-1)
    boxes = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], -1)
    width, height = right - left, bottom - top
    return Found(
        boxes / torch.tensor([width, height, width, height]),
        torch.tensor([row[4] for row in rows]),
        torch.tensor([row[5] for row in rows], dtype=torch.int64),
        torch.arange(len(rows)),
    )


def merged(*views: tuple[tuple[int, int, int, int], Found], threshold: float = 0.3) -> list[tuple]:
    """Rounded corners, score and label, best first."""
    found = merge([each for _, each in views], [window for window, _ in views], SIZE, threshold)
    x, y, w, h = (found.boxes * torch.tensor([180, 100, 180, 100])).unbind(-1)
    corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1).round().tolist()
    rows = zip(corners, found.scores.tolist(), found.labels.tolist(), strict=True)
    return [(tuple(map(int, box)), round(score, 2), label) for box, score, label in rows]


def test_two_halves_become_the_object_they_are_of() -> None:
    left = view(LEFT, (40, 20, 100, 60, 0.6, 0))
    right = view(RIGHT, (80, 21, 150, 61, 0.9, 0))
    assert merged((LEFT, left), (RIGHT, right)) == [((40, 21, 150, 61), 0.9, 0)]


def test_a_sliver_is_swallowed_by_the_object_it_is_of() -> None:
    left = view(LEFT, (40, 20, 84, 60, 0.6, 0))
    right = view(RIGHT, (80, 22, 86, 58, 0.9, 0))
    # The sliver knows best where the object ends, not where it begins.
    assert merged((LEFT, left), (RIGHT, right)) == [((40, 22, 86, 58), 0.9, 0)]


def test_neighbours_that_one_view_tells_apart_stay_two() -> None:
    left = view(LEFT, (50, 20, 93, 60, 0.8, 0), (52, 22, 95, 62, 0.7, 0))
    right = view(RIGHT, (80, 20, 93, 60, 0.6, 0), (80, 22, 95, 62, 0.5, 0))
    assert merged((LEFT, left), (RIGHT, right)) == [
        ((50, 20, 93, 60), 0.8, 0),
        ((52, 22, 95, 62), 0.7, 0),
    ]


def test_a_small_complete_object_is_not_swallowed_by_a_large_complete_one() -> None:
    left = view(LEFT, (10, 10, 97, 90, 0.8, 0))
    right = view(RIGHT, (84, 40, 94, 50, 0.7, 0))
    assert len(merged((LEFT, left), (RIGHT, right))) == 2


def test_classes_are_merged_apart() -> None:
    left = view(LEFT, (40, 20, 100, 60, 0.6, 0))
    right = view(RIGHT, (80, 20, 150, 60, 0.9, 1))
    assert len(merged((LEFT, left), (RIGHT, right))) == 2


def test_objects_that_only_one_view_has_are_kept_where_they_are() -> None:
    left = view(LEFT, (5, 5, 20, 20, 0.5, 1))
    right = view(RIGHT, (150, 70, 175, 95, 0.6, 0), (160, 5, 170, 15, 0.4, 0))
    assert merged((LEFT, left), (RIGHT, right)) == [
        ((150, 70, 175, 95), 0.6, 0),
        ((5, 5, 20, 20), 0.5, 1),
        ((160, 5, 170, 15), 0.4, 0),
    ]


def test_what_is_below_the_threshold_enlarges_nothing() -> None:
    left = view(LEFT, (40, 20, 100, 60, 0.6, 0))
    right = view(RIGHT, (80, 20, 150, 60, 0.2, 0))
    assert merged((LEFT, left), (RIGHT, right)) == [((40, 20, 100, 60), 0.6, 0)]
    assert merged((LEFT, left), (RIGHT, right), threshold=0.7) == []


def test_the_whole_image_joins_pieces_that_no_tiles_share() -> None:
    left = view(LEFT, (5, 20, 100, 60, 0.9, 0))
    right = view(RIGHT, (80, 20, 178, 60, 0.8, 0))
    whole = view(WHOLE, (6, 21, 177, 61, 0.5, 0))
    assert merged((LEFT, left), (RIGHT, right), (WHOLE, whole)) == [((5, 20, 178, 60), 0.9, 0)]
    assert merged((LEFT, left), (WHOLE, whole)) == [((5, 20, 177, 60), 0.9, 0)]


def test_views_may_be_many() -> None:
    """A table of all pairs of them would take 13 gigabytes."""
    lefts = np.arange(20_000.0)
    frames = np.stack([lefts, 0 * lefts, lefts + 100, 0 * lefts + 100], 1)
    boxes = np.array([[160.0, 20.0, 180.0, 60.0], [160.0, 20.0, 180.0, 60.0], [700, 9, 720, 30]])
    views, whole = np.array([100, 150, 650]), np.zeros(3, bool)
    objects = _objects(boxes, np.zeros(3, np.int64), views, whole, frames)
    assert objects[0] == objects[1] != objects[2]


def test_nothing_found_is_nothing() -> None:
    assert merged((LEFT, view(LEFT)), (RIGHT, view(RIGHT))) == []


def test_boxes_do_not_leave_their_view() -> None:
    right = view(RIGHT, (150, 70, 190, 110, 0.6, 0))
    assert merged((LEFT, view(LEFT)), (RIGHT, right)) == [((150, 70, 180, 100), 0.6, 0)]
