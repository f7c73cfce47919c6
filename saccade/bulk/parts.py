"""Files of results: one for each shard, with a row for each image."""

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from saccade.bulk.folder import Folder

if TYPE_CHECKING:
    from pyarrow import Schema

METADATA = b"saccade"
ROWS = 256
"""That are in memory at a time."""
THREADS = 16


@dataclass(frozen=True)
class Summary:
    """What is in a file of results, or in several."""

    images: int = 0
    """Its rows."""
    unreadable: int = 0
    """Of those, the rows with an error."""
    objects: int = 0

    def __add__(self, other: "Summary") -> "Summary":
        """Both together."""
        return Summary(
            self.images + other.images,
            self.unreadable + other.unreadable,
            self.objects + other.objects,
        )


def part_name(number: int) -> str:
    """The file of a shard's results.

    >>> part_name(7)
    'part-000007.parquet'
    """
    return f"part-{number:06d}.parquet"


def schema() -> "Schema":
    """The columns; `docs/deployment.md` tells what they mean."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("file", pa.string(), nullable=False),
            ("key", pa.string()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("boxes", pa.list_(pa.list_(pa.float32()))),
            ("scores", pa.list_(pa.float32())),
            ("labels", pa.list_(pa.int32())),
            ("classes", pa.list_(pa.string())),
            ("error", pa.string()),
        ]
    )


def write_part(
    folder: Folder, number: int, fingerprint: str, rows: Iterable[dict[str, Any]]
) -> Summary:
    """Write the results of a shard; the file is there when all of it is.

    Args:
        folder: Of results.
        number: Of the shard.
        fingerprint: Of the manifest.
        rows: By column; columns that are missing are null.

    Raises:
        OSError: If it cannot be written.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    summary, remaining = Summary(), iter(rows)
    with folder.writing(part_name(number)) as stream, ParquetWriter(stream, schema()) as writer:
        while piece := list(islice(remaining, ROWS)):
            writer.write_table(pa.Table.from_pylist(piece, schema()))
            summary += Summary(
                len(piece),
                sum(row.get("error") is not None for row in piece),
                sum(len(row.get("scores") or ()) for row in piece),
            )
        kept = {"fingerprint": fingerprint, "shard": number, **asdict(summary)}
        writer.add_key_value_metadata({METADATA: json.dumps(kept).encode()})
    return summary


def read_summary(folder: Folder, number: int, fingerprint: str) -> Summary | None:
    """What a shard's file holds; None if it is missing, broken, or of another manifest."""
    from pyarrow.parquet import ParquetFile

    try:
        with folder.open(part_name(number)) as stream, ParquetFile(stream) as parquet:
            kept = json.loads((parquet.metadata.metadata or {}).get(METADATA, b"{}"))
    except (OSError, ValueError):
        return None
    if (kept.pop("fingerprint", None), kept.pop("shard", None)) != (fingerprint, number):
        return None
    return Summary(**kept)


def finished(folder: Folder, num_shards: int, fingerprint: str) -> dict[int, Summary]:
    """What the files hold of those shards that need not be looked at again."""
    present = set(folder.names())
    numbers = [number for number in range(num_shards) if part_name(number) in present]
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda number: read_summary(folder, number, fingerprint), numbers)
        pairs = zip(numbers, found, strict=True)
        return {number: summary for number, summary in pairs if summary is not None}


def errors_in(folder: Folder, numbers: Sequence[int]) -> Iterator[str]:
    """Why images could not be read, in the files of these shards."""
    from pyarrow.parquet import ParquetFile

    for number in numbers:
        with folder.open(part_name(number)) as stream, ParquetFile(stream) as parquet:
            for batch in parquet.iter_batches(columns=["error"]):
                yield from (error for error in batch.column(0).to_pylist() if error is not None)
