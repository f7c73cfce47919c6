import io
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from saccade.doctor.hashing import MOST_BITS, THUMBNAIL, _near, fingerprint, similar_pairs

from .datasets import pattern


def pairs(*images: Image.Image) -> list[list[int]]:
    prints = [fingerprint(image.convert("L")) for image in images]
    hashes = np.array([hash for hash, _ in prints], np.uint64)
    return similar_pairs(hashes, np.stack([small for _, small in prints])).tolist()


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
    assert pairs(*(pattern(seed) for seed in range(60))) == []


def test_a_mirrored_picture_is_another_one() -> None:
    picture = pattern(0)
    assert pairs(picture, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == []


def test_images_without_structure_are_like_nothing() -> None:
    assert pairs(*[Image.new("L", (64, 64), grey) for grey in (0, 0, 128)]) == []


def test_copies_are_paired_with_the_first_of_them_alone() -> None:
    assert pairs(pattern(1), *[pattern(0)] * 4) == [[1, 2], [1, 3], [1, 4]]


def test_bands_find_exactly_the_pairs_that_differ_in_few_bits() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(1, 2**63, 300, dtype=np.uint64)
    for index in range(0, 300, 3):
        flipped = random.choice(64, random.integers(0, 2 * MOST_BITS), replace=False)
        mask = np.bitwise_or.reduce(np.uint64(1) << flipped.astype(np.uint64), initial=np.uint64(0))
        hashes[index + 1] = hashes[index] ^ mask
    hashes = np.unique(hashes)
    expected = [
        [one, other]
        for one, other in product(range(len(hashes)), repeat=2)
        if one < other and (int(hashes[one]) ^ int(hashes[other])).bit_count() <= MOST_BITS
    ]
    assert len(expected) > 20
    assert _near(hashes).tolist() == expected


def test_equal_hashes_of_different_thumbnails_are_not_alike() -> None:
    hashes = np.array([5, 5], np.uint64)
    thumbnails = np.random.default_rng(0).integers(0, 256, (2, THUMBNAIL**2), dtype=np.uint8)
    assert similar_pairs(hashes, thumbnails).tolist() == []


def test_many_images_are_compared_in_seconds() -> None:
    # Comparing each with each in Python would take hours.
    random = np.random.default_rng(0)
    hashes = random.integers(1, 2**63, 30_000, dtype=np.uint64)
    thumbnails = random.integers(0, 256, (30_000, THUMBNAIL**2), dtype=np.uint8)
    hashes[15_000], thumbnails[15_000] = hashes[7] ^ np.uint64(0b101), thumbnails[7]
    assert similar_pairs(hashes, thumbnails).tolist() == [[7, 15_000]]
