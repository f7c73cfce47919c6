"""The pieces of work: which images belong to each does not depend on chance or on the machine."""

import json
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from saccade.bulk.listing import Kind, Listed, kind_of
from saccade.bulk.places import Place

THREADS = 16
"""That look into tar and Parquet files at the start: in a bucket each takes a request's time."""


@dataclass(frozen=True)
class Shard:
    """A piece of work, whose results are one file."""

    kind: Kind
    place: Place
    names: tuple[str, ...]
    """Of image files, or of one file that holds them."""
    row_groups: tuple[int, ...] = ()
    """Of a Parquet file."""
    first_row: int = 0
    """The number in the Parquet file of the first of those rows."""
    num_images: int | None = None
    """None for a tar file, which does not say it."""
    columns: tuple[str, str | None] | None = None
    """The columns of a Parquet file with images and, if there is one, with keys."""

    def to_json(self) -> str:
        """As text, the same for the same shard."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Shard":
        """The shard of a text."""
        values: dict[str, Any] = json.loads(text)
        values["place"] = Place(**values["place"])
        for name in ("names", "row_groups", "columns"):
            values[name] = None if values[name] is None else tuple(values[name])
        return cls(**values)


def make_shards(
    files: Sequence[Listed],
    size: int,
    image_column: str | None = None,
    key_column: str | None = None,
) -> list[Shard]:
    """Divide files into pieces of work, in their order.

    Args:
        files: To look at.
        size: Most images of a piece; a tar file and a row group of a Parquet file stay whole.
        image_column: Of Parquet files; None for the usual names.
        key_column: Of Parquet files; None for row numbers.

    Raises:
        ValueError: If a tar file holds no images, a Parquet file lacks the columns, the size is
            not positive, or there is no image at all.
        OSError: If a tar or Parquet file cannot be opened.
    """
    if size < 1:
        raise ValueError(f"--shard-size is {size}: expected at least one image.")

    def look_into(file: Listed) -> list[Shard]:
        if file.kind == "tar":
            _check_tar(file)
            return [Shard("tar", file.place, (file.name,))]
        return _of_parquet(file, size, image_column, key_column)

    with ThreadPoolExecutor(THREADS) as pool:
        packed = pool.map(look_into, [file for file in files if file.kind != "image"])
        shards: list[Shard] = []
        for (kind, place), group in groupby(files, lambda file: (file.kind, file.place)):
            if kind == "image":
                shards += _of_images(place, [file.name for file in group], size)
            else:
                shards += [shard for _ in group for shard in next(packed)]
    if not shards:
        raise ValueError("the Parquet files have no rows: there is nothing to look at.")
    return shards


def _of_images(place: Place, names: list[str], size: int) -> Iterator[Shard]:
    for start in range(0, len(names), size):
        piece = tuple(names[start : start + size])
        yield Shard("image", place, piece, num_images=len(piece))


def _check_tar(file: Listed) -> None:
    label = file.place.label(file.name)
    try:
        with file.place.open(file.name) as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
            if any(member.isfile() and kind_of(member.name) == "image" for member in tar):
                return
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{label} cannot be read as a tar file ({error}): was it copied completely?"
        ) from error
    raise ValueError(
        f"{label} holds no images: expected members such as 000123.jpg, as WebDataset has them."
    )


def _of_parquet(
    file: Listed, size: int, image_column: str | None, key_column: str | None
) -> list[Shard]:
    from pyarrow.parquet import ParquetFile

    label = file.place.label(file.name)
    try:
        with file.place.open(file.name) as stream, ParquetFile(stream) as parquet:
            schema, metadata = parquet.schema_arrow, parquet.metadata
            rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ValueError(f"{label} cannot be read as a Parquet file ({error}).") from error
    columns = _columns(schema, label, image_column, key_column)
    shards = []
    groups: tuple[int, ...] = ()
    first_row = num_rows = 0
    for number, count in enumerate([*rows, 0]):
        ends = number == len(rows)
        if num_rows and (ends or num_rows + count > size):
            shards.append(
                Shard("parquet", file.place, (file.name,), groups, first_row, num_rows, columns)
            )
            first_row, groups, num_rows = first_row + num_rows, (), 0
        if count:
            groups, num_rows = (*groups, number), num_rows + count
    return shards


def _columns(
    schema: Any, label: str, image_column: str | None, key_column: str | None
) -> tuple[str, str | None]:
    wanted = (image_column,) if image_column is not None else ("image", "bytes")
    column = next((name for name in wanted if name in schema.names), None)
    listed = ", ".join(schema.names)
    if column is None:
        raise ValueError(
            f"{label} has no column {' or '.join(wanted)}, but {listed}: name the one that holds "
            "images as bytes with --image-column."
        )
    if key_column is not None and key_column not in schema.names:
        raise ValueError(
            f"{label} has no column {key_column}, but {listed}: name another with --key-column."
        )
    if not _holds_bytes(schema.field(column).type):
        raise ValueError(
            f"column {column} of {label} is {schema.field(column).type}: expected the bytes of "
            "image files, or a struct with a field bytes; name another with --image-column."
        )
    return column, key_column


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        # As Hugging Face's datasets keep images.
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    binary = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary)
    return any(is_kind(kind) for is_kind in binary)
