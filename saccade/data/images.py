"""Image files as RGB tensors."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")
"""Pillow's names of what is read. It knows more, such as EPS, which runs Ghostscript."""


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
    scaled to 8 bits. The camera's orientation (EXIF) is applied, as image viewers do.

    Args:
        file: JPEG, PNG, BMP, GIF, TIFF, WebP, PPM or JPEG 2000; of several pictures the first.
        size: The (height, width) that annotations say, in pixels. When given, the orientation is
            applied only if the turned image has this size.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is broken or truncated, or is not of `size`; the message names it.
    """
    try:
        with Image.open(file, formats=FORMATS) as opened:
            image = _tensor(_upright(opened, size))
    except FileNotFoundError:
        raise
    # Pillow raises SyntaxError for some broken PNG files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{file} cannot be read as an image ({error}): is it complete, and one of "
            f"{', '.join(FORMATS)}?"
        ) from error
    height, width = image.shape[1:]
    if size is not None and (height, width) != size:
        raise ValueError(
            f"{file} has {width} x {height} pixels, but its annotations say "
            f"{size[1]} x {size[0]}: the boxes would not fit; correct one or the other."
        )
    return image


def image_to_tensor(image: Image.Image) -> UInt8[Tensor, "3 H W"]:
    """A Pillow image as uint8 RGB, values in [0, 255]: what `read_image` gives for its file.

    An orientation (EXIF) that the image still carries is applied. Pillow keeps it in images that
    were cropped or turned by hand; `PIL.ImageOps.exif_transpose` applies and removes it.

    Raises:
        OSError: If Pillow has only opened the file so far, and it is broken or truncated.
        ValueError: If the pixels are floating-point numbers, or of a colour space that Pillow
            does not convert.
    """
    return _tensor(_upright(image, None))


def _tensor(image: Image.Image) -> UInt8[Tensor, "3 H W"]:
    return torch.from_numpy(np.array(_rgb(image))).permute(2, 0, 1).contiguous()


def _upright(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        return image
    turned = ImageOps.exif_transpose(image)
    return turned if size is None or (turned.height, turned.width) == size else image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float64) / 257
        image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError(
            "the image's pixels are floating-point numbers: expected integers of 8 or 16 bits"
        )
    elif "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
