"""The folder of results, here or in a bucket: files appear in it complete or not at all."""

import os
import posixpath
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from saccade.bulk.places import Place, is_uri, place_of

PARTIAL = "_writing-"
"""What unfinished files begin with: readers of Parquet folders pass over names with _ in front."""
TRYING = "_trying-"
"""What notes of attempts begin with."""


@dataclass(frozen=True)
class Folder:
    """A folder, for processes that may run elsewhere."""

    place: Place
    root: str

    @classmethod
    def at(cls, name: str) -> "Folder":
        """The folder of a local path or a URI; it need not exist.

        Raises:
            ValueError: If pyarrow has no such filesystem.
            OSError: If it cannot be reached.
        """
        if is_uri(name):
            place, root = place_of(name)
            return cls(place, root.rstrip("/"))
        return cls(Place(), os.path.abspath(name))

    def path(self, name: str) -> str:
        """A file in it, as its filesystem calls it."""
        return posixpath.join(self.root, name)

    def create(self) -> None:
        """Make the folder, if there is none."""
        self.place.filesystem().create_dir(self.root, recursive=True)

    def names(self) -> list[str]:
        """The names of its files; none if it does not exist."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self.root, allow_not_found=True)
        entries = self.place.filesystem().get_file_info(selector)
        return [entry.base_name for entry in entries if entry.type == FileType.File]

    def open(self, name: str) -> Any:
        """One of its files, whose parts can be read: a pyarrow.NativeFile."""
        return self.place.filesystem().open_input_file(self.path(name))

    @contextmanager
    def writing(self, name: str) -> Iterator[Any]:
        """A stream, for a ``with`` at whose end the file gets its name, replacing an older one.

        Two processes may write the same file: whoever ends last has written it.

        Raises:
            OSError: If it cannot be written.
        """
        filesystem = self.place.filesystem()
        partial = f"{PARTIAL}{uuid.uuid4().hex}-{name}.partial"
        try:
            with filesystem.open_output_stream(self.path(partial)) as stream:
                yield stream
            filesystem.move(self.path(partial), self.path(name))
        except BaseException:
            self.remove(partial)
            raise

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        from pyarrow.fs import FileType

        info = self.place.filesystem().get_file_info(self.path(name))
        return bool(info.type == FileType.File)

    def remove(self, name: str) -> None:
        """Remove a file, if there is one."""
        if self.has(name):
            self.place.filesystem().delete_file(self.path(name))

    def remove_partial(self) -> None:
        """Remove what processes that were killed have left."""
        for name in self.names():
            if name.startswith((PARTIAL, TRYING)):
                self.remove(name)
