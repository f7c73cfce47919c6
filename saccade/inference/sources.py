"""Which image files a person means: files, folders, patterns, lists and folders of video frames."""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from saccade.data import image_suffixes

LIST_SUFFIX = ".txt"
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})


def find_images(sources: Sequence[Path], recursive: bool = False) -> list[Path]:
    """The image files that are meant, in the order of `sources`.

    Args:
        sources: Each an image file; a folder, whose images are taken in natural order, so that
            frame2 comes before frame10; a pattern such as ``photos/**/*.jpg``, where a shell has
            not expanded it; or a ``.txt`` file, see `read_list`.
        recursive: Look into the folders within folders too.

    Raises:
        OSError: If a folder cannot be listed.
        ValueError: If a source does not exist, holds no image, or is a video.
    """
    files: list[Path] = []
    for source in sources:
        if source.is_dir():
            files += _in_folder(source, recursive)
        elif source.suffix.lower() == LIST_SUFFIX and source.is_file():
            files += read_list(source)
        elif source.suffix.lower() in VIDEO_SUFFIXES and source.is_file():
            raise ValueError(
                f"{source} is a video: write its frames to a folder (ffmpeg -i {source.name} "
                "frames/%06d.jpg) and name that."
            )
        elif source.is_file():
            files.append(source)
        elif glob.has_magic(str(source)):
            files += _matching(source)
        else:
            raise ValueError(
                f"{source} does not exist: expected an image file, a folder, a pattern such as "
                "photos/*.jpg, or a .txt file with a path per line."
            )
    return files


def read_list(file: Path) -> list[Path]:
    """The images that a text file names, one path per line.

    Empty lines and those that begin with # are passed over. A path is relative to the list's
    folder or, where nothing is there, to the present one. Whether the images exist is seen when
    they are read: of a long list some may be missing.

    Raises:
        OSError: If the list cannot be opened.
        ValueError: If it is not text in UTF-8, or names nothing.
    """
    try:
        lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not text in UTF-8 ({error}): expected a path per line."
        ) from error
    named = [Path(line) for line in lines if line and not line.startswith("#")]
    if not named:
        raise ValueError(f"{file} names no images: expected a path per line.")
    return [path if _is_only_here(path, file.parent) else file.parent / path for path in named]


def natural_order(files: Iterable[Path]) -> list[Path]:
    """Sorted as people count: numbers within names by their value, capital letters as small ones.

    >>> [str(path) for path in natural_order(map(Path, ["b1", "a10", "a2", "A1"]))]
    ['A1', 'a2', 'a10', 'b1']
    """
    return sorted(files, key=lambda file: ([_counted(part) for part in file.parts], file))


def _counted(name: str) -> list[str | int]:
    # Text and numbers take turns, so that like is compared with like.
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def _in_folder(folder: Path, recursive: bool) -> list[Path]:
    if recursive:
        found = list(_within(folder))
    else:
        found = [file for file in folder.iterdir() if file.is_file()]
    images = _images(found)
    if not images:
        deeper = "" if recursive else " (those in the folders within need --recursive)"
        raise ValueError(f"{folder} holds no image files{deeper}: name a folder that does.")
    return images


def _within(folder: Path) -> Iterator[Path]:
    """All files, but those of hidden folders (thumbnails, versions); links are not followed."""

    def refuse(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in names)


def _matching(pattern: Path) -> list[Path]:
    matches = [Path(match) for match in glob.glob(str(pattern), recursive=True)]
    images = _images(match for match in matches if match.is_file())
    if not images:
        raise ValueError(
            f"{pattern} matches no image file: expected a pattern such as photos/*.jpg, or "
            "photos/**/*.jpg for all folders within."
        )
    return images


def _images(files: Iterable[Path]) -> list[Path]:
    readable = image_suffixes()
    # A name with a dot in front is macOS's note about a file (._cat.jpg), or hidden on purpose.
    return natural_order(
        file for file in files if file.suffix.lower() in readable and not file.name.startswith(".")
    )


def _is_only_here(path: Path, folder: Path) -> bool:
    return path.is_absolute() or (path.exists() and not (folder / path).exists())
