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
_MOST_AT_ONCE = 2**21
"""Pairs that are compared at a time, which bounds the memory."""

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


def similar_pairs(hashes: Hashes, thumbnails: Bytes) -> Integers:
    """Pairs of images that look alike.

    Images of one and the same hash are compared with the first of them alone, so that a thousand
    copies are a thousand pairs and not half a million.

    Args:
        hashes: [I]: see `fingerprint`; images of hash 0 are like nothing.
        thumbnails: [I, 256]

    Returns:
        [P, 2]: the two images of each pair, the smaller index first, in rising order.
    """
    order = np.flatnonzero(hashes)
    unique, first, inverse = np.unique(hashes[order], return_index=True, return_inverse=True)
    representative = order[first]
    same = np.stack([representative[inverse.ravel()], order], 1)
    same = same[same[:, 0] != same[:, 1]]
    near = representative[_near(unique)]
    pairs = np.concatenate([same, near]).astype(np.int64)
    pairs.sort(axis=1)
    parts = np.array_split(pairs, 1 + len(pairs) * thumbnails.shape[1] // _MOST_AT_ONCE)
    alike = [_alike(thumbnails[part[:, 0]], thumbnails[part[:, 1]]) for part in parts]
    return np.unique(pairs[np.concatenate(alike)], axis=0)


def _near(unique: Hashes) -> Integers:
    """[P, 2]: the pairs of different hashes with few different bits."""
    found = [np.zeros((0, 2), np.int64)]
    edges = np.linspace(0, 64, MOST_BITS + 2).astype(int)
    for low, high in pairwise(edges):
        band = (unique >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order], prepend=band[order][:1] + np.uint64(1)))
        for bucket in np.split(order, starts[1:]):
            found += _within(unique, bucket)
    return np.unique(np.concatenate(found), axis=0)


def _within(unique: Hashes, bucket: Integers) -> list[Integers]:
    found = []
    num_rows = max(1, _MOST_AT_ONCE // max(1, len(bucket)))
    for start in range(0, len(bucket) - 1, num_rows):
        rows = bucket[start : start + num_rows]
        different = _bits(unique[rows][:, None] ^ unique[bucket[start:]][None])
        one, other = np.nonzero(np.triu(different <= MOST_BITS, 1))
        pairs = np.stack([rows[one], bucket[start:][other]], 1)
        pairs.sort(axis=1)
        found.append(pairs)
    return found


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
