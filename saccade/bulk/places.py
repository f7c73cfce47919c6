"""Files here and in buckets, through the filesystems that pyarrow knows."""

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


def is_uri(name: str) -> bool:
    """Whether this names a filesystem, such as s3://bucket/photos, and is no local path."""
    return "://" in name


@dataclass(frozen=True)
class Place:
    """A filesystem, and what the names of files in it begin with."""

    uri: str = ""
    """Of anything in the filesystem; "" for the local one."""
    prefix: str = ""
    """What makes names complete: the start of URIs, or the folder of relative local paths."""

    def label(self, name: str) -> str:
        """What people call a file."""
        whole = self.prefix + name if self.uri else name
        # Names of local files may hold bytes that are no UTF-8, which Parquet cannot.
        return whole.encode("utf-8", "backslashreplace").decode("utf-8")

    def path(self, name: str) -> str:
        """What the filesystem calls it."""
        return name if self.uri else os.path.join(self.prefix, name)

    def filesystem(self) -> "FileSystem":
        """Opened once in each process."""
        return _filesystem(self.uri)

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            OSError: If it cannot be read.
        """
        if not self.uri:
            with open(self.path(name), "rb") as file:
                return file.read()
        with self.open(name) as stream:
            return bytes(stream.readall())

    def open(self, name: str) -> Any:
        """A file whose parts can be read: a pyarrow.NativeFile.

        Raises:
            OSError: If there is none.
        """
        return self.filesystem().open_input_file(self.path(name))


def place_of(name: str) -> tuple[Place, str]:
    """Where a path or URI is, and its name there.

    Raises:
        ValueError: If pyarrow has no such filesystem.
        OSError: If it cannot be reached.
    """
    if not is_uri(name):
        return Place(prefix=os.getcwd()), name
    _, path = _parsed(name)
    start = name.find(path) if path else len(name)
    prefix = name[:start] if start >= 0 else f"{urlsplit(name).scheme}://"
    return Place(name, prefix), path


@lru_cache(maxsize=64)
def _parsed(uri: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem

    try:
        filesystem, path = FileSystem.from_uri(uri)
    except ValueError as error:
        raise ValueError(
            f"{uri} is at no place that pyarrow can read ({error}): expected a local path, or a "
            "URI such as s3://bucket/photos, gs://bucket/photos or hdfs://host:8020/photos."
        ) from error
    return filesystem, path


@lru_cache(maxsize=64)
def _filesystem(uri: str) -> Any:
    from pyarrow.fs import LocalFileSystem

    return _parsed(uri)[0] if uri else LocalFileSystem()
