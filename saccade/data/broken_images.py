"""Images that cannot be read, found before they are needed."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from saccade.data.annotations import Annotations, ImageEntry
from saccade.data.headers import check_image
from saccade.data.images import read_image

MOST_SAID = 3


def check_images(folder: Path, annotations: Annotations) -> None:
    """Refuse a split some of whose images are broken, as far as `check_image` sees it.

    Args:
        folder: Of the images.
        annotations: Of the split.

    Raises:
        ValueError: If any is; the message names the first few.
    """
    broken = _find_broken(folder, annotations.images, decode=False)
    sentences = [*annotations.broken, *broken.values()]
    if sentences:
        raise ValueError(said(sentences))


def without_broken(folder: Path, annotations: Annotations) -> Annotations:
    """Leave out the images that cannot be decoded, and their objects; a warning names the first.

    Args:
        folder: Of the images, all of which are decoded.
        annotations: Of the split.
    """
    broken = _find_broken(folder, annotations.images, decode=True)
    if broken:
        warnings.warn(f"Left out: {said(list(broken.values()))}", stacklevel=2)
    return annotations.without(broken)


def said(sentences: Sequence[str]) -> str:
    """Why images are broken, and what to do: the first few, and how many there are."""
    first = " ".join(sentences[:MOST_SAID])
    more = f" And {len(sentences) - MOST_SAID} more." if len(sentences) > MOST_SAID else ""
    images = "1 image is" if len(sentences) == 1 else f"{len(sentences)} images are"
    return f"{images} unusable: {first}{more} Repair or remove, or pass --on-broken-image skip."


def _find_broken(folder: Path, images: Sequence[ImageEntry], *, decode: bool) -> dict[int, str]:
    """Why, by image id."""
    check = read_image if decode else check_image

    def error(image: ImageEntry) -> str | None:
        try:
            check(folder / image.file_name, image.size)
        except (ValueError, OSError) as error:
            return as_sentence(error)
        return None

    with ThreadPoolExecutor() as pool:
        errors = pool.map(error, images)
    return {image.id: each for image, each in zip(images, errors, strict=True) if each}


def as_sentence(error: ValueError | OSError) -> str:
    """An error of `read_image`."""
    if isinstance(error, FileNotFoundError):
        return f"{error.filename} does not exist."
    return str(error)
