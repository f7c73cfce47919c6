"""Image files as RGB tensors."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps
from torch import Tensor


def read_image(file: Path, size: tuple[int, int] | None = None) -> UInt8[Tensor, "3 H W"]:
    """Read an image file as uint8 RGB, [3, H, W], values in [0, 255].

    Grey, palette and CMYK images are converted, transparency is dropped, 16-bit values are
    scaled to 8 bits. The camera's orientation (EXIF) is applied, as image viewers do.

    Args:
        file: Any format that Pillow reads.
        size: The (height, width) that annotations say, in pixels. When given, the orientation is
            applied only if the turned image has this size.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is broken or truncated, or is not of `size`; the message names it.
    """
    try:
        with Image.open(file) as opened:
            image = _rgb(_upright(opened, size))
    except FileNotFoundError:
        raise
    # Pillow raises SyntaxError for some broken PNG files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{file} cannot be read as an image ({error}): is it complete, and of a format "
            "that Pillow reads?"
        ) from error
    if size is not None and (image.height, image.width) != size:
        raise ValueError(
            f"{file} has {image.width} x {image.height} pixels, but its annotations say "
            f"{size[1]} x {size[0]}: the boxes would not fit; correct one or the other."
        )
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


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
        raise ValueError("its pixels are floating-point numbers, expected 8 or 16 bits")
    elif "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
