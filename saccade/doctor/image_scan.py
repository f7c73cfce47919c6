"""Every image file, opened and decoded once, in several processes."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from saccade.data.broken_images import as_sentence
from saccade.data.headers import check_image
from saccade.data.images import open_image, to_rgb, upright
from saccade.doctor.hashing import THUMBNAIL, Bytes, Hashes, fingerprint
from saccade.doctor.tables import Integers

CHUNK = 32
"""Files that a process is given at a time."""
LEAST_FOR_PROCESSES = 1024
"""Files below which starting processes takes longer than they save."""
MOST_PROCESSES = 16
_DECODED_SIDE = 64
"""JPEG files are decoded at a fraction of their size, but not below this."""

_READ_AT_ONCE = 2**20

File = tuple[Path, tuple[int, int]]
"""An image, and the (height, width) in pixels that its annotations say."""


@dataclass(frozen=True)
class _Seen:
    error: str | None
    digest: bytes
    hash: int
    thumbnail: bytes
    largest: int
    """Of an image of 16 bits the largest value, of others -1."""


@dataclass(frozen=True)
class ImageScan:
    """What was seen of each of I files."""

    errors: dict[int, str]
    """Why a file cannot be used, by its index."""
    digests: tuple[bytes, ...]
    """Of the bytes of each file: the same for copies."""
    hashes: Hashes
    """[I]: see `fingerprint`; 0 for files that cannot be read."""
    thumbnails: Bytes
    """[I, 256]"""
    largest: Integers
    """[I]: the largest value of images of 16 bits, -1 for others."""


def scan_images(
    files: Sequence[File],
    advance: Callable[[int], None] | None = None,
    num_processes: int | None = None,
) -> ImageScan:
    """Look at every file.

    Args:
        files: Each once.
        advance: Told how many more have been looked at.
        num_processes: How many look; by default as many as there are cores, and none but this one
            for a thousand files or fewer. They are spawned: a script that calls this needs the
            usual ``if __name__ == "__main__"``.

    Raises:
        ValueError: If a process was killed, most likely for want of memory.
    """
    if num_processes is None:
        few = len(files) < LEAST_FOR_PROCESSES
        num_processes = 0 if few else min(MOST_PROCESSES, _num_cores())
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    parts: dict[int, list[_Seen]] = {}
    for number, part in _looked(chunks, num_processes):
        parts[number] = part
        if advance is not None:
            advance(len(part))
    return _together([each for number in range(len(chunks)) for each in parts[number]])


def _looked(
    chunks: Sequence[Sequence[File]], num_processes: int
) -> Iterator[tuple[int, list[_Seen]]]:
    """The number of each chunk and what was seen of it, in the order in which they are ready."""
    if num_processes < 2:
        yield from ((number, _look_at(chunk)) for number, chunk in enumerate(chunks))
        return
    # Forks of a process that has threads, as torch's has, may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_processes, mp_context=context)
    waiting: dict[Future[list[_Seen]], int] = {}
    rest = iter(enumerate(chunks))
    try:
        while True:
            # A few in advance, so that nobody waits and little is in memory.
            for number, chunk in islice(rest, 3 * num_processes - len(waiting)):
                waiting[pool.submit(_look_at, chunk)] = number
            if not waiting:
                return
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            yield from ((waiting.pop(each), each.result()) for each in done)
    except BrokenProcessPool as error:
        raise ValueError(
            "a process that looked at the images was killed: expected enough memory for "
            f"{num_processes} processes; see --processes."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _num_cores() -> int:
    """Those that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _look_at(files: Sequence[File]) -> list[_Seen]:
    return [_look(file, size) for file, size in files]


def _look(file: Path, size: tuple[int, int]) -> _Seen:
    try:
        digest = _digest(file)
        check_image(file, size)
        with open_image(file) as image:
            # All of a JPEG file is read, but few of its frequencies are turned into pixels.
            if image.format == "JPEG" and image.mode in ("L", "RGB"):
                image.draft("L", (_DECODED_SIDE, _DECODED_SIDE))
            largest = _largest(image)
            hash, thumbnail = fingerprint(_grey(_turned(image, size)))
    except (ValueError, OSError) as error:
        return _Seen(as_sentence(error), b"", 0, bytes(THUMBNAIL**2), -1)
    return _Seen(None, digest, hash, thumbnail.tobytes(), largest)


def _digest(file: Path) -> bytes:
    """Of the bytes, which may be more than fit into memory."""
    found = blake2b(digest_size=16)
    with file.open("rb") as stream:
        while part := stream.read(_READ_AT_ONCE):
            found.update(part)
    return found.digest()


def _turned(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    wide = size[1] > size[0]
    found = upright(image, None)
    # Drafts are not of the size that annotations say, but lie as they do.
    return found if (found.width > found.height) == wide else image


def _grey(image: Image.Image) -> Image.Image:
    return image if image.mode == "L" else to_rgb(image).convert("L")


def _largest(image: Image.Image) -> int:
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return -1
    _, largest = image.getextrema()
    assert isinstance(largest, int | float)
    return int(largest)


def _together(seen: Sequence[_Seen]) -> ImageScan:
    thumbnails = np.frombuffer(b"".join(each.thumbnail for each in seen), np.uint8)
    return ImageScan(
        {index: each.error for index, each in enumerate(seen) if each.error is not None},
        tuple(each.digest for each in seen),
        np.array([each.hash for each in seen], np.uint64),
        thumbnails.reshape(-1, THUMBNAIL**2),
        np.array([each.largest for each in seen], np.int64),
    )
