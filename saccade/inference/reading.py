"""Images are read by other threads while the detector looks at those before."""

import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from math import isinf
from typing import Protocol, TypeVar

from PIL import Image

Key = TypeVar("Key")

AHEAD_BYTES = 512 * 2**20
"""That images which were read and not yet looked at may take."""


class Weighing(Protocol):
    """What takes memory."""

    @property
    def num_bytes(self) -> int:
        """How much."""


Read = TypeVar("Read", bound=Weighing)
Unreadable = ValueError | OSError
"""What reading an image raises where there is none, or none that can be used."""


def read_ahead(
    keys: Iterable[Key],
    read: Callable[[Key], Read],
    ahead: int,
    threads: int = 2,
    most_bytes: int = AHEAD_BYTES,
) -> Generator[tuple[Key, Read | Unreadable], None, None]:
    """Read in order, some images ahead of the one that is asked for.

    Args:
        keys: Of the images.
        read: Reads one; is called in other threads.
        ahead: Most images that wait, read or being read. Fewer where images are so large that
            they would take more than `most_bytes`, judged by the largest so far; one at least.
        threads: That read.
        most_bytes: See `ahead`.

    Yields:
        Each key with what was read or, if it cannot be, why not.
    """
    source = iter(keys)
    waiting: deque[tuple[Key, Future[Read | Unreadable]]] = deque()
    largest = 1
    pool = ThreadPoolExecutor(threads, "saccade-reads")

    def fill() -> None:
        room = max(1, min(ahead, most_bytes // largest)) - len(waiting)
        for key in islice(source, max(0, room)):
            waiting.append((key, pool.submit(_attempt, read, key)))

    try:
        fill()
        while waiting:
            key, future = waiting.popleft()
            outcome = future.result()
            if not isinstance(outcome, ValueError | OSError):
                largest = max(largest, outcome.num_bytes)
            fill()
            yield key, outcome
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _attempt(read: Callable[[Key], Read], key: Key) -> Read | Unreadable:
    try:
        return read(key)
    except (ValueError, OSError) as error:
        return error


def check_image_limit(megapixels: float) -> None:
    """Refuse what is no limit.

    Raises:
        ValueError: If it is not positive.
    """
    if not megapixels > 0:
        raise ValueError(f"the limit is {megapixels} megapixels: expected a positive number.")


@contextmanager
def image_limit(megapixels: float) -> Iterator[None]:
    """Meanwhile, images of more pixels cannot be read: a small file may unpack to any size.

    Raises:
        ValueError: If the limit is not positive.
    """
    check_image_limit(megapixels)
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        # Pillow refuses what has twice as many pixels, and warns of what has more.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        most = None if isinf(megapixels) else max(1, int(megapixels * 1e6 / 2))
        Image.MAX_IMAGE_PIXELS = most
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
