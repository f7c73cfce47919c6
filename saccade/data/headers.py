"""What can be said of an image file without decoding it."""

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from saccade.data.images import open_image, orientation, other_size, read_image

QUARTER_TURNS = (5, 6, 7, 8)
"""Orientations (EXIF) that exchange width and height."""


def read_size(file: Path) -> tuple[int, int]:
    """The (height, width) in pixels that `read_image` gives the image, orientation applied.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its header cannot be read; the message names it.
    """
    with open_image(file) as image:
        return _upright_size(image, file)


def check_image(file: Path, size: tuple[int, int]) -> None:
    """Refuse an image that is missing, has another size or, by its looks, broken.

    Read are its header and whether it ends as its format does; an end that is not as expected is
    settled by decoding. Damage in between, or in formats other than JPEG and PNG, is not seen.

    Args:
        file: See `read_image`.
        size: The (height, width) that annotations say, in pixels.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is broken or not of `size`; the message names it.
    """
    with open_image(file) as image:
        stored = (image.height, image.width)
        if size not in (stored, _upright_size(image, file)):
            raise other_size(file, stored, size)
        name = image.format
    if (name == "JPEG" and not _ends_as_jpeg(file)) or (name == "PNG" and not _ends_as_png(file)):
        read_image(file, size)


def _upright_size(image: Image.Image, file: Path) -> tuple[int, int]:
    if image.format == "PNG" and _has_late_text(file):
        image.load()
    # Pillow has exchanged the sides of TIFF files already.
    if image.format != "TIFF" and orientation(image) in QUARTER_TURNS:
        return image.width, image.height
    return image.height, image.width


def _has_late_text(file: Path) -> bool:
    chunks = list(_png_chunks(file))
    late = chunks[chunks.index(b"IDAT") :] if b"IDAT" in chunks else chunks
    return not {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}.isdisjoint(late)


def _ends_as_png(file: Path) -> bool:
    return b"IEND" in _png_chunks(file)


def _png_chunks(file: Path) -> Iterator[bytes]:
    """The types of the chunks that are complete."""
    with file.open("rb") as stream:
        end = stream.seek(0, 2)
        # Eight bytes of signature; each chunk has four of length, four of type, four of checksum.
        position = stream.seek(8)
        while len(head := stream.read(8)) == 8:
            position += 12 + int.from_bytes(head[:4], "big")
            if position > end:
                return
            yield head[4:]
            stream.seek(position)


def _ends_as_jpeg(file: Path) -> bool:
    with file.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, 2) - 2))
        return stream.read() == b"\xff\xd9"
