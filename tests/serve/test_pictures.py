import io
import random
import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from saccade.config import InputConfig
from saccade.data import read_image
from saccade.serve.pictures import MAX_SCANS, MAX_SEGMENTS, check_resized, decode
from saccade.serve.refusals import Refusal
from tests.serve.asking import picture

PHOTO = Path(__file__).parents[2] / "examples/blood-cells/test/BloodImage_00007.jpg"

# Of damaged TIFF files, before Pillow refuses them.
WARNED = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def test_an_image_is_decoded_as_its_file_is_read() -> None:
    assert torch.equal(decode(PHOTO.read_bytes(), 50.0), read_image(PHOTO))


def test_the_cameras_orientation_is_applied() -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(file, "JPEG", exif=exif)
    assert decode(file.getvalue(), 50.0).shape == (3, 6, 4)


def png_of(width: int, height: int) -> bytes:
    """A file that says how large it is, and whose pixels break off at once."""

    def chunk(content: bytes, length: int) -> bytes:
        return struct.pack(">I", length) + content + struct.pack(">I", zlib.crc32(content))

    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(header, 13) + chunk(b"IDAT" + zlib.compress(b""), 8)


@pytest.mark.parametrize(("width", "height"), [(1001, 1000), (10_000, 10_000), (60_000, 60_000)])
def test_a_bomb_is_refused_by_its_header(width: int, height: int) -> None:
    with pytest.raises(Refusal, match="million") as refusal:
        decode(png_of(width, height), 1.0)
    assert refusal.value.status_code == 413


@WARNED
@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"x", "no such file begins like it"),
        (b"%PDF-1.7", "no such file begins like it"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no such file begins like it"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no such file begins like it"),
        (png_of(0, 0), "cannot be read"),
        (png_of(30, 30), "cannot be read"),
        (picture()[:60], "cannot be read"),
        (PHOTO.read_bytes()[:9000], "truncated"),
        (picture(kind="GIF")[:40], "cannot be read"),
        (picture(kind="TIFF")[:60], "cannot be read"),
    ],
)
def test_what_is_no_whole_image_is_refused(data: bytes, sentence: str) -> None:
    with pytest.raises(Refusal) as refusal:
        decode(data, 50.0)
    assert refusal.value.status_code == 422
    assert sentence in refusal.value.detail
    assert "object at 0x" not in refusal.value.detail


def test_a_jpeg_of_countless_scans_is_refused() -> None:
    data = PHOTO.read_bytes()
    start = data.index(b"\xff\xda")
    scan = data[start : start + 14]
    with pytest.raises(Refusal, match="more than 100 scans"):
        decode(data[:start] + scan * (MAX_SCANS + 1) + data[start:], 50.0)


def test_a_jpeg_of_countless_segments_is_refused() -> None:
    data = PHOTO.read_bytes()
    with pytest.raises(Refusal, match="10000 segments"):
        decode(data[:2] + b"\xff\xfe\0\2" * MAX_SEGMENTS + data[2:], 50.0)


def test_the_video_that_a_phone_appends_to_its_photo_is_none_of_its_scans() -> None:
    data = PHOTO.read_bytes()
    assert data.endswith(b"\xff\xd9")
    video = b"\xff\xda\0\x0c" * (MAX_SCANS + 1)
    assert torch.equal(decode(data + video, 50.0), read_image(PHOTO))


@WARNED
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000"])
def test_damaged_files_of_every_kind_are_read_or_refused(kind: str) -> None:
    whole = picture(90, (30, 40), kind)
    chance = random.Random(kind)
    statuses = []
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            damaged[chance.randrange(min(len(damaged), 400))] = chance.randrange(256)
        data = bytes(damaged[: chance.choice([None, len(damaged) // 2])])
        try:
            decode(data, 1.0)
        except Refusal as refusal:
            statuses.append(refusal.status_code)
    assert statuses
    assert set(statuses) <= {413, 422}


def test_an_image_that_would_stay_enormous_when_resized_is_refused() -> None:
    config = InputConfig(short_side=240, max_side=320)
    for size in [(1, 1), (480, 640), (3000, 4000), (240, 900)]:
        check_resized(size, config)
    # Rounded to 640 x 1334.
    check_resized((794, 1655), InputConfig(short_side=640, max_side=1333))
    with pytest.raises(Refusal, match="too long and narrow"):
        check_resized((1, 50_000_000), config)
    with pytest.raises(Refusal, match="too long and narrow"):
        check_resized((25_000_000, 2), config)
