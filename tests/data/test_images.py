import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.data import read_image

RED = (255, 0, 0)


def save(image: Image.Image, file: Path, **options: object) -> Path:
    image.save(file, **options)
    return file


def test_reads_rgb_as_uint8(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = read_image(save(Image.fromarray(pixels), tmp_path / "a.png"))
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert torch.equal(image, torch.from_numpy(pixels).permute(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGBA", "CMYK"])
def test_converts_every_mode_to_rgb(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    white = Image.new("RGB", (3, 2), (255, 255, 255)).convert(mode)
    assert torch.equal(read_image(save(white, file)), torch.full((3, 2, 3), 255, dtype=torch.uint8))


def test_a_palette_with_transparency_does_not_warn(tmp_path: Path) -> None:
    image = Image.new("RGB", (3, 2), RED).convert("P")
    file = save(image, tmp_path / "a.png", transparency=bytes(range(256)))
    assert read_image(file)[:, 0, 0].tolist() == list(RED)


def test_scales_16_bits_to_8(tmp_path: Path) -> None:
    values = np.array([[0, 257, 25700, 65535]], dtype=np.uint16)
    image = read_image(save(Image.fromarray(values), tmp_path / "a.png"))
    assert image[:, 0].tolist() == [[0, 1, 100, 255]] * 3


def rotated(file: Path, orientation: int) -> Path:
    """An image 4 wide and 2 high, its left top pixel white, with an EXIF orientation."""
    pixels = np.zeros((2, 4, 3), dtype=np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(Image.fromarray(pixels), file, exif=exif)


def test_applies_the_orientation_of_the_camera(tmp_path: Path) -> None:
    turned = read_image(rotated(tmp_path / "a.png", 6))
    assert turned.shape == (3, 4, 2)
    assert turned[0].nonzero().tolist() == [[0, 1]]


@pytest.mark.parametrize(("size", "corner"), [((4, 2), [0, 1]), ((2, 4), [0, 0])])
def test_applies_the_orientation_only_where_annotations_agree(
    tmp_path: Path, size: tuple[int, int], corner: list[int]
) -> None:
    image = read_image(rotated(tmp_path / "a.png", 6), size)
    assert image.shape == (3, *size)
    assert image[0].nonzero().tolist() == [corner]


def test_refuses_an_image_of_another_size(tmp_path: Path) -> None:
    file = save(Image.new("RGB", (4, 2)), tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png has 4 x 2 pixels, but its annotations say 5 x 2"):
        read_image(file, (2, 5))


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.6])
def test_names_a_truncated_file(tmp_path: Path, name: str, share: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = save(Image.fromarray(pixels), tmp_path / name)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=f"{file} cannot be read as an image"):
        read_image(file)


def test_names_a_broken_png(tmp_path: Path) -> None:
    file = save(Image.new("RGB", (4, 2)), tmp_path / "a.png")
    content = bytearray(file.read_bytes())
    content[16:20] = struct.pack(">I", 5)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} cannot be read as an image"):
        read_image(file)


def test_refuses_floating_point_pixels(tmp_path: Path) -> None:
    file = save(Image.new("F", (4, 2)), tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif .*floating-point"):
        read_image(file)


def test_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.jpg"):
        read_image(tmp_path / "absent.jpg")
