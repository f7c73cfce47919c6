"""Image files that strangers send, as tensors."""

import io
import re
import struct

from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from saccade.config import InputConfig
from saccade.data import image_to_tensor
from saccade.data.images import FORMATS
from saccade.data.transforms import resized_size
from saccade.serve.refusals import Refusal

MAX_SCANS = 100
"""A progressive JPEG has about ten. Every scan may touch all pixels, so that a small file of
thousands would keep a thread busy for minutes."""
MAX_SEGMENTS = 10_000
"""The tables and metadata of large photos take a few hundred, of 64 kB at most."""

# What has no length is passed over: escaped bytes of a scan (0), fill bytes, restarts.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_END, _START_OF_SCAN = b"\xd9", b"\xda"


def decode(data: bytes, max_megapixels: float) -> UInt8[Tensor, "3 H W"]:
    """An image file as `saccade.data.read_image` reads it.

    Args:
        data: Of the file.
        max_megapixels: Read in the header: the pixels of a larger one are never decoded.

    Raises:
        Refusal: If it is too large, broken, truncated, or not an image.
    """
    if data.startswith(b"\xff\xd8") and _is_laborious(data):
        raise Refusal(
            422,
            f"the JPEG has more than {MAX_SCANS} scans or {MAX_SEGMENTS} segments, which no camera "
            "or program writes.",
            "image",
        )
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            _check_pixels(opened.width, opened.height, max_megapixels)
            return image_to_tensor(opened)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Refusal(
            413, f"the image has more than {max_megapixels:g} million pixels.", "too large"
        ) from error
    except UnidentifiedImageError as error:
        # Its message is of a Python object.
        raise _unreadable("no such file begins like it") from error
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise _unreadable(str(error)) from error


def check_resized(size: tuple[int, int], config: InputConfig) -> None:
    """Refuse an image so narrow that it would stay enormous when it is resized.

    Args:
        size: (height, width) of the image in pixels.
        config: The detector's.

    Raises:
        Refusal: If so.
    """
    height, width = resized_size(size, config.short_side, config.max_side)
    # Twice, since rounding may lengthen a side a little.
    if height * width > 2 * config.short_side * config.max_side:
        raise Refusal(
            422,
            f"the image is {size[1]} x {size[0]} pixels, too long and narrow for this detector: "
            "cut it into pieces.",
            "image",
        )


def _is_laborious(jpeg: bytes) -> bool:
    """Whether it has too many scans or segments before its end; phones append videos behind it."""
    place, scans = 2, 0
    for _ in range(MAX_SEGMENTS):
        marker = _MARKER.search(jpeg, place)
        if marker is None or marker[1] == _END:
            return False
        scans += marker[1] == _START_OF_SCAN
        if scans > MAX_SCANS:
            return True
        length = int.from_bytes(jpeg[marker.end() : marker.end() + 2], "big")
        place = marker.end() + max(2, length)
    return True


def _check_pixels(width: int, height: int, max_megapixels: float) -> None:
    if width * height > max_megapixels * 1e6:
        raise Refusal(
            413,
            f"the image has {width} x {height} pixels, more than {max_megapixels:g} million: send "
            "a smaller one.",
            "too large",
        )


def _unreadable(reason: str) -> Refusal:
    return Refusal(
        422,
        f"the image cannot be read ({reason}): is it complete, and one of {', '.join(FORMATS)}?",
        "image",
    )
