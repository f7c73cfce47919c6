import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from saccade.data import image_suffixes, image_to_tensor, read_image

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


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.png", "a.bmp", "a.gif", "a.tif", "a.webp", "a.ppm", "a.jp2", "a.mpo"]
)
def test_reads_the_formats_it_lists(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    image = read_image(save(Image.new("RGB", (16, 8), RED), file))
    assert image.shape == (3, 8, 16)
    assert file.suffix in image_suffixes()


@pytest.mark.parametrize("name", ["a.eps", "a.pdf", "a.tga"])
def test_leaves_other_formats_of_pillow_alone(tmp_path: Path, name: str) -> None:
    file = save(Image.new("RGB", (16, 8), RED), tmp_path / name)
    with pytest.raises(ValueError, match=r"cannot identify .* complete, and one of JPEG, PNG, BMP"):
        read_image(file)
    assert file.suffix not in image_suffixes()


def test_a_pillow_image_is_read_like_its_file(tmp_path: Path) -> None:
    values = Image.fromarray(np.array([[0, 257, 25700, 65535]], dtype=np.uint16))
    for file in (rotated(tmp_path / "a.png", 6), save(values, tmp_path / "b.png")):
        with Image.open(file) as image:
            assert torch.equal(image_to_tensor(image), read_image(file))


def test_an_orientation_applied_by_hand_is_not_applied_again(tmp_path: Path) -> None:
    with Image.open(rotated(tmp_path / "a.png", 6)) as image:
        upright = ImageOps.exif_transpose(image)
    assert image_to_tensor(upright).shape == (3, 4, 2)


def test_refuses_a_pillow_image_of_floating_point_pixels() -> None:
    with pytest.raises(ValueError, match="the image's pixels are floating-point numbers: expected"):
        image_to_tensor(Image.new("F", (4, 2)))


def test_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.jpg"):
        read_image(tmp_path / "absent.jpg")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_every_orientation_is_applied_as_pillow_does(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    file = rotated(tmp_path / f"a.{suffix}", orientation)
    with Image.open(file) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert torch.equal(read_image(file), torch.tensor(expected).permute(2, 0, 1))


def test_unusual_exif_data_does_not_hinder_turning(tmp_path: Path) -> None:
    """Pillow's own turning writes the tags anew, which a width in words does not let it do."""
    width, turn = (
        struct.pack("<HHI4s", 0x0100, 2, 4, b"abc"),
        struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0),
    )
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + width + turn + bytes(4)
    file = save(Image.new("RGB", (4, 2)), tmp_path / "a.jpg", exif=exif)
    with Image.open(file) as image, pytest.raises(struct.error):
        ImageOps.exif_transpose(image)
    assert read_image(file).shape == (3, 4, 2)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_damaged_exif_data_is_taken_for_none(tmp_path: Path, name: str) -> None:
    exif = b"Exif\x00\x00no tags at all"
    file = save(Image.new("RGB", (4, 2), RED), tmp_path / name, exif=exif)
    assert read_image(file).shape == (3, 2, 4)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "I;16"])
def test_every_mode_is_turned(tmp_path: Path, mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    file = save(Image.new(mode, (4, 2)), tmp_path / "a.png", exif=exif)
    assert read_image(file).shape == (3, 4, 2)


def test_cmyk_jpegs_and_transparent_greys_are_converted(tmp_path: Path) -> None:
    inks = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert read_image(save(inks, tmp_path / "a.jpg", quality=100))[:, 0, 0].tolist()[0] > 200
    grey = Image.new("LA", (3, 2), (100, 0))
    assert read_image(save(grey, tmp_path / "a.png"))[:, 0, 0].tolist() == [100] * 3
