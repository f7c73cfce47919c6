from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from saccade.config import DetectorConfig
from saccade.inference.looking import WholeImage, show
from saccade.inference.stream import Seen, look_at_all
from saccade.inference.tiles import Tiles
from saccade.inference.wanted import Wanted
from saccade.structures import Predictions
from tests.conftest import small_config

SIDE = 100


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("size", [(100, 101), (257, 90), (500, 1234), (1, 3000)])
def test_equal_tiles_cover_every_pixel_and_overlap_enough(
    size: tuple[int, int], overlap: float
) -> None:
    tiles = Tiles(SIDE, overlap).tiles(size)
    covered = torch.zeros(size, dtype=torch.bool)
    for left, top, right, bottom in tiles:
        assert (bottom - top, right - left) == (min(SIDE, size[0]), min(SIDE, size[1]))
        assert left >= 0
        assert top >= 0
        covered[top:bottom, left:right] = True
    assert covered.all()
    assert len(set(tiles)) == len(tiles)
    for axis, side in ((0, size[1]), (1, size[0])):
        starts = sorted({tile[axis] for tile in tiles})
        assert starts[-1] + min(SIDE, side) == side
        for start, following in pairwise(starts):
            assert start + SIDE - following >= overlap * SIDE - 1e-9


def test_an_image_that_fits_into_a_tile_is_shown_once() -> None:
    assert len(Tiles(SIDE).views((100, 100))) == 1
    assert len(Tiles(SIDE).views((100, 101))) == 3
    assert len(Tiles(SIDE, whole=False).views((100, 101))) == 2


@pytest.mark.parametrize(
    ("side", "overlap", "message"),
    [
        (8, 0.2, "the tile's side is 8 pixels: expected 32 or more"),
        (100, 20, "the overlap of tiles is 20: expected a share of their side, 0 to 0.9"),
        (100, -0.1, "the overlap of tiles is -0.1"),
    ],
)
def test_tiles_that_make_no_sense_are_refused(side: int, overlap: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tiles(side, overlap)


class SeesColours:
    """Finds what is bright in the first channel (class 0) and in the second (class 1).

    As a detector that works: a part of an object is found as the part that is seen.
    """

    def __init__(self) -> None:
        small = small_config("learned")
        # As large as a tile, so that nothing is resized but the whole image.
        self.config: DetectorConfig = replace(
            small, input=replace(small.input, short_side=SIDE, max_side=SIDE)
        )
        self.num_images = self.num_batches = 0

    def __call__(self, images: Tensor) -> Predictions:
        self.num_images += len(images)
        self.num_batches += 1
        boxes, logits = torch.zeros(len(images), 2, 4), torch.full((len(images), 2, 2), -9.0)
        for number, image in enumerate(images):
            for label in range(2):
                bright = image[label] > 127
                if bright.any():
                    boxes[number, label] = _box(bright)
                    logits[number, label, label] = 2.0
        return Predictions(logits, boxes)


def _box(bright: Tensor) -> Tensor:
    rows, columns = (bright.any(axis).nonzero()[:, 0] for axis in (1, 0))
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    height, width = bright.shape
    box = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])
    return box / torch.tensor([width, height, width, height])


def picture(objects: dict[int, tuple[int, int, int, int]]) -> Tensor:
    pixels = torch.zeros(3, 230, 310, dtype=torch.uint8)
    for label, (x0, y0, x1, y1) in objects.items():
        pixels[label, y0:y1, x0:x1] = 255
    return pixels


def look(pixels: Tensor, looking: Tiles | WholeImage) -> tuple[list[int], Tensor]:
    """Labels of what is found, and its corners in pixels."""
    engine = SeesColours()
    shown = show(pixels, engine.config.input, looking)
    (seen,) = look_at_all(engine, [(0, shown)], looking, Wanted(), batch_size=4)
    assert isinstance(seen, Seen)
    found = seen.found
    sure = found.scores >= 0.3
    x, y, w, h = (found.boxes[sure] * torch.tensor([310, 230, 310, 230])).unbind(-1)
    corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)
    return found.labels[sure].tolist(), corners


@pytest.mark.parametrize(
    "box",
    [
        (5, 5, 25, 20),
        (295, 215, 310, 230),  # in the last corner
        (60, 60, 130, 90),  # cut by a border between tiles
        (40, 40, 120, 130),  # by two
        (85, 10, 95, 25),  # where tiles overlap
        (20, 50, 290, 90),  # by every border of a row
        (10, 10, 300, 220),  # larger than any tile
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_an_object_is_found_once_where_it_is(box: tuple[int, ...], whole: bool) -> None:
    labels, corners = look(picture({0: box}), Tiles(SIDE, 0.25, whole))
    assert labels == [0]
    # The whole image is seen at a third of its size.
    torch.testing.assert_close(corners[0], torch.tensor(box).float(), rtol=0, atol=3.0)
    if not whole:
        torch.testing.assert_close(corners[0], torch.tensor(box).float(), rtol=0, atol=1e-3)


def test_objects_of_two_classes_in_one_place_stay_two() -> None:
    boxes = {0: (60, 60, 130, 90), 1: (62, 61, 131, 92)}
    labels, corners = look(picture(boxes), Tiles(SIDE, 0.25))
    assert sorted(labels) == [0, 1]
    for label, box in zip(labels, corners, strict=True):
        torch.testing.assert_close(box, torch.tensor(boxes[label]).float(), rtol=0, atol=3.0)


def test_a_small_object_is_found_in_tiles_that_the_whole_image_hides() -> None:
    pixels = picture({0: (201, 101, 202, 102)})
    _, corners = look(pixels, WholeImage())
    assert len(corners) == 0
    _, corners = look(pixels, Tiles(SIDE, 0.25))
    assert corners.round().tolist() == [[201, 101, 202, 102]]


def test_tiles_share_batches() -> None:
    engine, looking = SeesColours(), Tiles(SIDE, 0.0, whole=False)
    shown = show(picture({}), engine.config.input, looking)
    list(look_at_all(engine, [(0, shown)], looking, Wanted(), batch_size=6))
    assert (engine.num_images, engine.num_batches) == (12, 2)
