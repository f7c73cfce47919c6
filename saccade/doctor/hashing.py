"""Perceptual hashes: images that look alike, found without comparing each with each.

The hash is the sign pattern of an image's lowest frequencies, a discrete cosine transform as in
Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions (2010), section 3.2.1.
It survives compression and resizing. Hashes that differ in at most `MOST_BITS` of 64 bits share
one of `MOST_BITS` + 1 bands, so that only images of one bucket are compared; what is left is
settled by comparing the thumbnails themselves.
"""

from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image

from saccade.doctor.tables import Floats, Integers

SIDE = 32
"""Of the grey image that is transformed."""
THUMBNAIL = 16
FREQUENCIES = 8
MOST_BITS = 6
"""Bits in which the hashes of one picture may differ."""
FLAT = 2.0
"""Grey levels of standard deviation below which an image has nothing to compare."""
LEAST_CORRELATION = 0.96
MOST_DIFFERENCE = 8.0
"""Grey levels, root mean square, between thumbnails."""
MOST_NEIGHBOURS = 1024
"""Hashes of one bucket that an image is compared with."""
MOST_COMPARED = 32
"""Of these, thumbnails."""
_MOST_AT_ONCE = 2**20
"""Pairs of hashes that are compared at a time, which bounds the memory."""
_EDGES = np.linspace(0, 64, MOST_BITS + 2).astype(int)
"""Of the bands."""

Hashes = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]


def fingerprint(image: Image.Image) -> tuple[int, Bytes]:
    """The hash of an image in grey, and its thumbnail.

    Args:
        image: Of mode "L".

    Returns:
        64 bits, 0 for an image without structure; and the thumbnail [256], rows one after the
        other.
    """
    grey = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)
    cells = SIDE // THUMBNAIL
    thumbnail = grey.reshape(THUMBNAIL, cells, THUMBNAIL, cells).mean((1, 3))
    small = np.rint(thumbnail).clip(0, 255).astype(np.uint8).ravel()
    if grey.std() < FLAT:
        return 0, small
    basis = _cosines()
    frequencies = (basis @ grey @ basis.T).ravel()
    # The first is the mean brightness.
    bits = frequencies[1:] > np.median(frequencies[1:])
    packed = np.packbits(np.concatenate([[True], bits]))
    return int.from_bytes(packed.tobytes(), "big"), small


def first_alike(hashes: Hashes, thumbnails: Bytes, known: Integers, asked: Integers) -> Integers:
    """For each image that is asked about, one of the known images that looks like it.

    Frames of a fixed camera share bands, and often whole hashes, by the thousand. Of one bucket an
    image therefore meets only the `MOST_NEIGHBOURS` known ones whose hashes sort next to its own,
    once for each band, and of these only the `MOST_COMPARED` with the fewest different bits are
    compared by their thumbnails. One that looks alike and is in none of these is not found.

    Args:
        hashes: [I]: see `fingerprint`; images of hash 0 are like nothing.
        thumbnails: [I, 256]
        known: Indices among the I.
        asked: Others of them.

    Returns:
        [P, 2]: a known image and the one that is asked about, which comes in one pair at most.
    """
    known, asked = known[hashes[known] != 0], asked[hashes[asked] != 0]
    match = np.full(len(asked), -1, np.int64)
    num_rows = _MOST_AT_ONCE // MOST_NEIGHBOURS
    for low, high in pairwise(_EDGES) if len(known) else ():
        # With the band in front, a bucket is a piece of the sorted hashes.
        turned, width = _rotated(hashes, int(high)), np.uint64(64 - (high - low))
        in_order = known[np.argsort(turned[known], kind="stable")]
        waiting = np.flatnonzero(match < 0)
        for start in range(0, len(waiting), num_rows):
            rows = waiting[start : start + num_rows]
            near = _neighbours(turned[in_order], turned[asked[rows]], width)
            match[rows] = _confirmed(hashes, thumbnails, in_order, near, asked[rows])
    found = match >= 0
    return np.stack([match[found], asked[found]], 1)


def _neighbours(in_order: Hashes, own: Hashes, shift: np.uint64) -> Integers:
    """[A, M]: places in `in_order` of the same bucket as each of `own`, -1 for none."""
    bands, band = in_order >> shift, own >> shift
    first, last = np.searchsorted(bands, band), np.searchsorted(bands, band, "right")
    middle = np.searchsorted(in_order, own)
    start = np.minimum(middle - MOST_NEIGHBOURS // 2, last - MOST_NEIGHBOURS)
    first = np.maximum(first, start)
    most = min(MOST_NEIGHBOURS, int((last - first).max(initial=0)))
    places = first[:, None] + np.arange(most)
    return np.where(places < last[:, None], places, -1)


def _confirmed(
    hashes: Hashes, thumbnails: Bytes, in_order: Integers, near: Integers, asked: Integers
) -> Integers:
    """[A]: the first of the images near to each one whose thumbnail agrees, -1 for none."""
    others = in_order[near]
    different = _bits(hashes[others] ^ hashes[asked][:, None])
    different[near < 0] = 64
    order = np.argsort(different, axis=1, kind="stable")[:, :MOST_COMPARED]
    different = np.take_along_axis(different, order, 1)
    others = np.take_along_axis(others, order, 1)
    match = np.full(len(asked), -1, np.int64)
    for rank in range(order.shape[1]):
        rows = np.flatnonzero((match < 0) & (different[:, rank] <= MOST_BITS))
        if not len(rows):
            break
        candidates = others[rows, rank]
        agrees = _alike(thumbnails[candidates], thumbnails[asked[rows]])
        match[rows[agrees]] = candidates[agrees]
    return match


def _rotated(hashes: Hashes, high: int) -> Hashes:
    """With the bits below `high` in front."""
    return hashes if high == 64 else (hashes << np.uint64(64 - high)) | (hashes >> np.uint64(high))


def _bits(values: Hashes) -> npt.NDArray[np.uint8]:
    """How many bits are set (Warren, Hacker's Delight, section 5-1)."""
    ones = np.uint64(0x5555555555555555)
    pairs = np.uint64(0x3333333333333333)
    fours = np.uint64(0x0F0F0F0F0F0F0F0F)
    values = values - ((values >> np.uint64(1)) & ones)
    values = (values & pairs) + ((values >> np.uint64(2)) & pairs)
    values = (values + (values >> np.uint64(4))) & fours
    return ((values * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.uint8)


def _alike(one: Bytes, other: Bytes) -> npt.NDArray[np.bool_]:
    first, second = one.astype(np.float32), other.astype(np.float32)
    difference = np.sqrt(((first - second) ** 2).mean(1))
    first -= first.mean(1, keepdims=True)
    second -= second.mean(1, keepdims=True)
    product = np.sqrt((first**2).mean(1) * (second**2).mean(1))
    correlation = (first * second).mean(1) / product.clip(min=1e-6)
    return (difference <= MOST_DIFFERENCE) & (correlation >= LEAST_CORRELATION)


@cache
def _cosines() -> Floats:
    """[FREQUENCIES, SIDE]: the first rows of the cosine transform (DCT-II)."""
    columns = (2 * np.arange(SIDE) + 1) * np.pi / (2 * SIDE)
    return np.cos(np.arange(FREQUENCIES)[:, None] * columns)
