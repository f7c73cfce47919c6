import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.data import read_image
from saccade.inference.reading import image_limit, read_ahead


@dataclass
class Thing:
    key: int
    num_bytes: int = 1


class Reads:
    """Notes what was asked for; reading number 3 fails."""

    def __init__(self, num_bytes: int = 1) -> None:
        self.num_bytes = num_bytes
        self.begun: list[int] = []
        self.threads: set[str] = set()
        self.most = 0
        self.taken = 0

    def __call__(self, key: int) -> Thing:
        self.begun.append(key)
        self.threads.add(threading.current_thread().name)
        if key == 3:
            raise FileNotFoundError("no 3")
        return Thing(key, self.num_bytes)


def test_everything_is_read_in_order_and_what_fails_says_why() -> None:
    read = Reads()
    outcomes = list(read_ahead(range(20), read, ahead=4))
    assert [key for key, _ in outcomes] == list(range(20))
    assert [key for key, outcome in outcomes if isinstance(outcome, OSError)] == [3]
    assert all(outcome.key == key for key, outcome in outcomes if isinstance(outcome, Thing))
    assert threading.current_thread().name not in read.threads


def test_no_more_is_asked_for_than_may_wait() -> None:
    asked: list[int] = []

    def keys() -> "object":
        for key in range(10, 50):
            asked.append(key)
            yield key

    for done, _ in enumerate(read_ahead(keys(), Reads(), ahead=4), start=1):
        assert len(asked) <= done + 4


def test_large_images_are_read_one_ahead() -> None:
    asked: list[int] = []

    def keys() -> "object":
        for key in range(10, 30):
            asked.append(key)
            yield key

    stream = read_ahead(keys(), Reads(num_bytes=100), ahead=8, most_bytes=50)
    for done, _ in enumerate(stream, start=1):
        # The first are asked for before anybody knows how large they are.
        assert len(asked) <= max(8, done + 1)
    assert len(asked) == 20


def test_reading_is_ahead_of_the_one_who_asks() -> None:
    """The third image is being read while the first is in use: no other would ever set this."""
    third = threading.Event()

    def read(key: int) -> Thing:
        if key == 2:
            third.set()
        return Thing(key)

    stream = read_ahead(range(5), read, ahead=4)
    next(stream)
    assert third.wait(timeout=60)
    stream.close()


def test_what_unpacks_to_more_pixels_than_allowed_is_unreadable(tmp_path: Path) -> None:
    file = tmp_path / "bomb.png"
    Image.fromarray(np.zeros((1000, 1500), np.uint8)).save(file)
    before = Image.MAX_IMAGE_PIXELS
    with image_limit(1.4), pytest.raises(ValueError, match=r"bomb\.png cannot be read.*bomb"):
        read_image(file)
    assert before == Image.MAX_IMAGE_PIXELS
    # Pillow would warn of it, which is an error here.
    with image_limit(1.6):
        assert read_image(file).shape == (3, 1000, 1500)


def test_there_may_be_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "large.png"
    Image.fromarray(np.zeros((100, 150), np.uint8)).save(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    with image_limit(float("inf")):
        assert read_image(file).shape == (3, 100, 150)
    assert Image.MAX_IMAGE_PIXELS == 5000


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="limit is 0 megapixels"), image_limit(0):
        pass
