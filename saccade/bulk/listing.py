"""Which files a person means, where images may also be in tar and Parquet files, and in buckets."""

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from saccade.bulk.places import Place, is_uri, place_of
from saccade.data import image_suffixes
from saccade.inference.sources import LIST_SUFFIX, find_images, natural_order

Kind = Literal["image", "tar", "parquet"]
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
PARQUET_SUFFIXES = (".parquet", ".pq")


@dataclass(frozen=True)
class Listed:
    """A file that holds one image or many."""

    place: Place
    name: str
    kind: Kind


def kind_of(name: str) -> Kind | None:
    """What a file is by its name; None for what holds no images, or is hidden.

    >>> [kind_of(name) for name in ("a/b.JPG", "s3://c/d.tar.gz", "e.parquet", "g/._h.png")]
    ['image', 'tar', 'parquet', None]
    """
    last = name.replace("\\", "/").rpartition("/")[2].lower()
    if last.startswith("."):
        return None
    if last.endswith(TAR_SUFFIXES):
        return "tar"
    if last.endswith(PARQUET_SUFFIXES):
        return "parquet"
    return "image" if last.endswith(tuple(image_suffixes())) else None


def find_files(sources: Sequence[str], recursive: bool = False) -> list[Listed]:
    """The files that are meant, in the order of `sources`.

    Args:
        sources: As `saccade.inference.sources.find_images` takes them, and besides: tar and
            Parquet files, folders and patterns of them, and URIs of all these.
        recursive: Look into the folders within folders too.

    Raises:
        ValueError: If a source does not exist, or holds nothing to look at.
        OSError: If a filesystem cannot be reached.
    """
    files: list[Listed] = []
    for source in sources:
        if is_uri(source):
            files += _remote(source, recursive)
        else:
            files += _local(source, recursive)
    return files


def _local(source: str, recursive: bool) -> list[Listed]:
    place, _ = place_of(source)
    path = Path(source)
    if path.is_file() and path.suffix.lower() == LIST_SUFFIX:
        uris = _uris_in(path.read_bytes(), source)
        if uris:
            return uris
    files = _local_files(path, recursive)
    if all(kind_of(file.name) == "image" for file in files):
        files = find_images([path], recursive)
    return [Listed(place, str(file), kind_of(file.name) or "image") for file in files]


def _local_files(path: Path, recursive: bool) -> list[Path]:
    """Those of a known kind."""
    if path.is_dir() and recursive:
        found = [Path(place, name) for place, _, names in os.walk(path) for name in names]
    elif path.is_dir():
        found = list(path.iterdir())
    else:
        found = (
            [path] if path.is_file() else [Path(m) for m in glob.glob(str(path), recursive=True)]
        )
    return natural_order(file for file in found if kind_of(file.name) and file.is_file())


def _remote(source: str, recursive: bool) -> list[Listed]:
    from pyarrow.fs import FileSelector, FileType

    # A pattern is no URI, but what is before it is; "?" begins options there.
    base, pattern = source, None
    if re.search(r"[*\[]", source):
        pattern = source
        base = re.split(r"[*\[]", source, maxsplit=1)[0].rpartition("/")[0]
    place, root = place_of(base)
    info = place.filesystem().get_file_info(root)
    if info.type == FileType.File:
        if root.endswith(LIST_SUFFIX):
            return _uris_in(place.read(root), source) or _refuse(source)
        return [Listed(place, root, kind_of(root) or "image")]
    if info.type == FileType.NotFound:
        raise ValueError(
            f"{source} does not exist: expected an image, a folder, a pattern, a .txt file with a "
            "URI per line, or tar or Parquet files."
        )
    selector = FileSelector(root, recursive=recursive or pattern is not None)
    names = [
        entry.path
        for entry in place.filesystem().get_file_info(selector)
        if entry.type == FileType.File and kind_of(entry.path)
    ]
    if pattern is not None:
        wanted = _pattern(pattern)
        names = [name for name in names if wanted.fullmatch(place.prefix + name)]
    ordered = [path.as_posix() for path in natural_order(map(Path, names))]
    return [Listed(place, name, kind_of(name) or "image") for name in ordered] or _refuse(source)


def _refuse(source: str) -> list[Listed]:
    raise ValueError(
        f"{source} holds no images, tar or Parquet files: name a folder that does (those in the "
        "folders within need --recursive)."
    )


def _uris_in(content: bytes, source: str) -> list[Listed]:
    """What a list names, if it is one of URIs."""
    lines = [line.strip() for line in content.decode("utf-8-sig", "replace").splitlines()]
    named = [line for line in lines if line and not line.startswith("#")]
    if not any(is_uri(line) for line in named):
        return []
    local = next((line for line in named if not is_uri(line)), None)
    if local is not None:
        raise ValueError(f"{source} names URIs and {local}: expected one kind or the other.")
    places: dict[str, Place] = {}
    listed = []
    for line in named:
        # To ask pyarrow takes a request; all of a bucket are in one place.
        known = next((place for start, place in places.items() if line.startswith(start)), None)
        if known is None or "?" in line:
            place, name = place_of(line)
            listed.append(Listed(place, name, kind_of(name) or "image"))
            bucket = re.match(r"[^:]+://[^/]*/", line)
            if bucket and "?" not in line:
                places[bucket.group()] = place
        else:
            name = line.removeprefix(known.prefix)
            listed.append(Listed(known, name, kind_of(name) or "image"))
    return listed


def _pattern(pattern: str) -> "re.Pattern[str]":
    """What `glob` means, for whole URIs.

    >>> bool(_pattern("s3://a/**/*.jpg").fullmatch("s3://a/b.jpg"))
    True
    >>> bool(_pattern("s3://a/*.jpg").fullmatch("s3://a/b/c.jpg"))
    False
    """
    meanings = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}
    parts = re.split(r"(\*\*/|\*\*|\*|\[[^]]+\])", pattern)
    written = (
        meanings.get(part) or (part if part.startswith("[") else re.escape(part)) for part in parts
    )
    return re.compile("".join(written))
