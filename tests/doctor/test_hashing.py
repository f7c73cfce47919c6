import io
import tracemalloc
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from saccade.doctor import hashing
from saccade.doctor.hashing import MOST_BITS, THUMBNAIL, fingerprint, first_alike

from .datasets import pattern


def pairs(*images: Image.Image, known: int = 1) -> list[list[int]]:
    """Of the first images, which are known, and the others."""
    prints = [fingerprint(image.convert("L")) for image in images]
    hashes = np.array([hash for hash, _ in prints], np.uint64)
    return found(hashes, np.stack([small for _, small in prints]), known)


def found(hashes: hashing.Hashes, thumbnails: hashing.Bytes, known: int) -> list[list[int]]:
    each = np.arange(len(hashes))
    return first_alike(hashes, thumbnails, each[:known], each[known:]).tolist()


def recompressed(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(io.BytesIO(stream.getvalue()))


@pytest.mark.parametrize("seed", range(5))
def test_a_picture_is_known_again_compressed_resized_and_a_little_brighter(seed: int) -> None:
    picture = pattern(seed, (240, 320))
    again = [
        recompressed(picture, 30),
        picture.resize((131, 97), Image.Resampling.BILINEAR),
        picture.resize((640, 480), Image.Resampling.BICUBIC),
        ImageEnhance.Brightness(picture).enhance(1.04),
    ]
    for other in again:
        assert pairs(picture, other) == [[0, 1]]


def test_different_pictures_are_not_alike() -> None:
    assert pairs(*(pattern(seed) for seed in range(60)), known=30) == []


def test_a_mirrored_picture_is_another_one() -> None:
    picture = pattern(0)
    assert pairs(picture, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == []


def test_images_without_structure_are_like_nothing() -> None:
    assert pairs(*[Image.new("L", (64, 64), grey) for grey in (0, 0, 128)]) == []


def test_each_image_that_is_asked_about_is_found_though_they_are_all_the_same() -> None:
    images = [pattern(1), pattern(0), pattern(0), *[pattern(0)] * 3, pattern(2)]
    assert pairs(*images, known=3) == [[1, 3], [1, 4], [1, 5]]


def test_nothing_is_found_where_nothing_is_known_or_asked() -> None:
    assert pairs(pattern(0), known=1) == []
    assert pairs(pattern(0), known=0) == []


def test_bands_find_exactly_the_images_that_differ_in_few_bits() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(1, 2**63, 300, dtype=np.uint64)
    for index in range(150):
        flipped = random.choice(64, random.integers(0, 2 * MOST_BITS), replace=False)
        mask = np.bitwise_or.reduce(np.uint64(1) << flipped.astype(np.uint64), initial=np.uint64(0))
        hashes[150 + index] = hashes[index] ^ mask
    expected = {
        other
        for one, other in product(range(150), range(150, 300))
        if (int(hashes[one]) ^ int(hashes[other])).bit_count() <= MOST_BITS
    }
    assert 20 < len(expected) < 130
    same = np.tile(np.arange(THUMBNAIL**2, dtype=np.uint8), (300, 1))
    assert {other for _, other in found(hashes, same, known=150)} == expected


def test_equal_hashes_of_different_thumbnails_are_not_alike() -> None:
    hashes = np.array([5, 5], np.uint64)
    thumbnails = np.random.default_rng(0).integers(0, 256, (2, THUMBNAIL**2), dtype=np.uint8)
    assert found(hashes, thumbnails, known=1) == []


def test_many_images_are_compared_in_seconds() -> None:
    # Comparing each with each in Python would take hours.
    random = np.random.default_rng(0)
    hashes = random.integers(1, 2**63, 30_000, dtype=np.uint64)
    thumbnails = random.integers(0, 256, (30_000, THUMBNAIL**2), dtype=np.uint8)
    hashes[25_000], thumbnails[25_000] = hashes[7] ^ np.uint64(0b101), thumbnails[7]
    assert found(hashes, thumbnails, known=20_000) == [[7, 25_000]]


@pytest.mark.parametrize("alike", [True, False])
def test_frames_of_a_fixed_camera_take_little_memory_and_few_comparisons(
    monkeypatch: pytest.MonkeyPatch, alike: bool
) -> None:
    # One background and something small that moves: all hashes differ in a few bits.
    random = np.random.default_rng(0)
    flipped = random.integers(0, 10, (6000, 2)).astype(np.uint64)
    hashes = np.uint64(0xDEADBEEF12345678) ^ (np.uint64(1) << flipped[:, 0])
    hashes ^= np.uint64(1) << flipped[:, 1]
    thumbnails = random.integers(0, 256, (6000, THUMBNAIL**2), dtype=np.uint8)
    if alike:
        thumbnails[:] = thumbnails[0]
    compared = []
    whole = hashing._alike

    def counting(one: hashing.Bytes, other: hashing.Bytes) -> np.ndarray:
        compared.append(len(one))
        return whole(one, other)

    monkeypatch.setattr(hashing, "_alike", counting)
    tracemalloc.start()
    said = found(hashes, thumbnails, known=5000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(said) == 1000 * alike
    bands = MOST_BITS + 1
    assert sum(compared) <= (1000 if alike else 1000 * bands * hashing.MOST_COMPARED)
    assert peak < 100 * 2**20
