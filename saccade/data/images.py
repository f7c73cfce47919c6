"""Image files as RGB tensors."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")
"""Pillow's names of what is read. It knows more, such as EPS, which runs Ghostscript."""

# Pillow raises SyntaxError for some broken PNG files, struct.error for some broken TIFF tags.
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
_TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its orientation."""
_FLOAT = "the image's pixels are floating-point numbers: expected integers of 8 or 16 bits"


def image_suffixes() -> frozenset[str]:
    """The suffixes of the files that `read_image` reads: in lower case, with their dot."""
    # MPO, a JPEG file of several pictures, is opened as JPEG.
    return frozenset(
        suffix
        for suffix, name in Image.registered_extensions().items()
        if name in (*FORMATS, "MPO")
    )


def read_image(file: Path, size: tuple[int, int] | None = None) -> UInt8[Tensor, "3 H W"]:
    """Read an image file as uint8 RGB, [3, H, W], values in [0, 255].

    Grey, palette and CMYK images are converted, transparency is dropped, 16-bit values are
    scaled to 8 bits. The camera's orientation (EXIF) is applied, as image viewers do; EXIF data
    that is damaged is taken for none.

    Args:
        file: JPEG, PNG, BMP, GIF, TIFF, WebP, PPM or JPEG 2000; of several pictures the first.
        size: The (height, width) that annotations say, in pixels. When given, the orientation is
            applied only if the turned image has this size.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is broken or truncated, or is not of `size`; the message names it.
    """
    with open_image(file) as opened:
        image = _tensor(upright(opened, size))
    height, width = image.shape[1:]
    if size is not None and (height, width) != size:
        raise other_size(file, (height, width), size)
    return image


def decode_image(content: bytes, name: str) -> UInt8[Tensor, "3 H W"]:
    """The image that `read_image` would read from a file with this content.

    Args:
        content: Of an image file.
        name: What errors call it.

    Raises:
        ValueError: If it is broken or truncated.
    """
    with open_image(name, content) as opened:
        return _tensor(upright(opened, None))


@contextmanager
def open_image(file: Path | str, content: bytes | None = None) -> Iterator[Image.Image]:
    """An image file as Pillow opens it, its header read; for a ``with`` that reads it.

    Args:
        file: Its path, or what errors call it if there is `content`.
        content: Of the file, where it has been read already.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For whatever Pillow raises meanwhile; the message names the file.
    """
    try:
        source = file if content is None else io.BytesIO(content)
        with Image.open(source, formats=FORMATS) as opened:
            if opened.mode == "F":
                raise ValueError(_FLOAT)
            yield opened
    except FileNotFoundError:
        raise
    except _PILLOW_ERRORS as error:
        # Pillow would name the place in memory where the content is.
        anonymous = content is not None and isinstance(error, UnidentifiedImageError)
        reason = "cannot identify image file" if anonymous else error
        raise ValueError(
            f"{file} cannot be read as an image ({reason}): is it complete, and one of "
            f"{', '.join(FORMATS)}?"
        ) from error


def other_size(file: Path, found: tuple[int, int], stated: tuple[int, int]) -> ValueError:
    """The error for an image that is not as large as its annotations say; (height, width)."""
    return ValueError(
        f"{file} has {found[1]} x {found[0]} pixels, but its annotations say "
        f"{stated[1]} x {stated[0]}: the boxes would not fit; correct one or the other."
    )


def image_to_tensor(image: Image.Image) -> UInt8[Tensor, "3 H W"]:
    """A Pillow image as uint8 RGB, values in [0, 255]: what `read_image` gives for its file.

    An orientation (EXIF) that the image still carries is applied. Pillow keeps it in images that
    were cropped or turned by hand; `PIL.ImageOps.exif_transpose` applies and removes it.

    Raises:
        OSError: If Pillow has only opened the file so far, and it is broken or truncated.
        ValueError: If the pixels are floating-point numbers, or of a colour space that Pillow
            does not convert.
    """
    return _tensor(upright(image, None))


def _tensor(image: Image.Image) -> UInt8[Tensor, "3 H W"]:
    return torch.from_numpy(np.array(to_rgb(image))).permute(2, 0, 1).contiguous()


def orientation(image: Image.Image) -> object:
    """The camera's orientation (EXIF) as the image has it: 1, upright, if there is none."""
    try:
        # Not PngImageFile's own method, which decodes the image first.
        return Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except _PILLOW_ERRORS:
        return 1


def upright(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """The image, decoded, and turned as `read_image` turns it for the (height, width) `size`."""
    # EXIF data may follow the pixels; and Pillow turns TIFF files when it decodes them.
    image.load()
    # Not ImageOps.exif_transpose, which writes all EXIF data anew and fails if some is unusual.
    method = _TURNS.get(orientation(image))
    if method is None:
        return image
    turned = image.transpose(method)
    return turned if size is None or (turned.height, turned.width) == size else image


def to_rgb(image: Image.Image) -> Image.Image:
    """A decoded image of any kind as RGB of 8 bits, as `read_image` converts it."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float64) / 257
        image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError(_FLOAT)
    elif "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
