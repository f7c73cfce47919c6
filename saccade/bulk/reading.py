"""The images of a shard, one after the other, whatever file they are in."""

import tarfile
from collections.abc import Iterator

from saccade.bulk.listing import kind_of
from saccade.bulk.shards import Shard
from saccade.inference.reading import Unreadable

ROWS = 16
"""Of a Parquet file that are in memory at a time, encoded."""


class Entry:
    """An image that has not been decoded yet."""

    def __init__(
        self, shard: Shard, name: str | None, content: bytes | Unreadable | None = None
    ) -> None:
        """An image.

        Args:
            shard: Where it is.
            name: Of the file, the tar file's member or the row; None for what is left of a file
                that is broken.
            content: Of the image, or why it cannot be read; None if the file is to be read.
        """
        self._shard = shard
        self._content = content
        own_file = shard.kind == "image"
        self._name = name if own_file and name is not None else shard.names[0]
        self.file = shard.place.label(self._name)
        self.key = self.file if own_file else name

    @property
    def label(self) -> str:
        """What errors call it."""
        return self.file if self._shard.kind == "image" else f"{self.file}: {self.key}"

    def take(self) -> bytes:
        """The content; it is not kept.

        Raises:
            ValueError: If it cannot be read.
            OSError: If it cannot be read.
        """
        if self._content is None:
            return self._shard.place.read(self._name)
        content, self._content = self._content, b""
        if not isinstance(content, bytes):
            raise content
        return content


def entries_of(shard: Shard) -> Iterator[Entry]:
    """The images of a shard in order; those that cannot be read are among them.

    Raises:
        OSError: If a tar or Parquet file cannot be opened.
    """
    if shard.kind == "image":
        return (Entry(shard, name) for name in shard.names)
    return _in_tar(shard) if shard.kind == "tar" else _in_parquet(shard)


def _in_tar(shard: Shard) -> Iterator[Entry]:
    name = shard.names[0]
    last = "the beginning"
    with shard.place.open(name) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|*") as tar:
                for member in tar:
                    if not member.isfile() or kind_of(member.name) != "image":
                        continue
                    content = tar.extractfile(member)
                    assert content is not None
                    key = member.name.encode("utf-8", "backslashreplace").decode("utf-8")
                    yield Entry(shard, key, content.read())
                    last = key
        except (tarfile.TarError, EOFError) as error:
            label = shard.place.label(name)
            message = f"{label} is cut off or broken after {last} ({error}): copy it again."
            yield Entry(shard, None, ValueError(message))


def _in_parquet(shard: Shard) -> Iterator[Entry]:
    from pyarrow.parquet import ParquetFile

    assert shard.columns is not None
    assert shard.num_images is not None
    image_column, key_column = shard.columns
    names = [image_column] if key_column is None else [image_column, key_column]
    row, end = shard.first_row, shard.first_row + shard.num_images
    with shard.place.open(shard.names[0]) as stream, ParquetFile(stream) as parquet:
        try:
            for batch in parquet.iter_batches(ROWS, list(shard.row_groups), names):
                images = batch.column(image_column)
                keys = None if key_column is None else batch.column(key_column)
                for index in range(batch.num_rows):
                    value = images[index].as_py()
                    key = str(row) if keys is None else str(keys[index].as_py())
                    yield Entry(shard, key, _content(value, row, image_column))
                    row += 1
        except (ValueError, OSError) as error:
            label = shard.place.label(shard.names[0])
            for broken in range(row, end):
                message = f"row {broken} of {label} cannot be read ({error})."
                yield Entry(shard, str(broken), ValueError(message))


def _content(value: object, row: int, column: str) -> bytes | Unreadable:
    if isinstance(value, dict):
        value = value.get("bytes")
    if isinstance(value, bytes):
        return value
    return ValueError(f"column {column} of row {row} is empty: expected the bytes of an image.")
