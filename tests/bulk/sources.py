"""Images in every kind of file."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from saccade.bulk.listing import find_files
from saccade.bulk.shards import Shard, make_shards


def png(seed: int, height: int = 48, width: int = 64) -> bytes:
    """The content of an image file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def write_images(folder: Path, count: int) -> Path:
    """A folder of 0.png, 1.png and so on."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(png(number))
    return folder


def write_tar(file: Path, members: dict[str, bytes]) -> Path:
    """A tar file, compressed if its name says so."""
    mode = "w:gz" if file.name.endswith("gz") else "w"
    with tarfile.open(file, mode) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file


def write_parquet(file: Path, columns: dict[str, Any], rows_in_group: int = 2) -> Path:
    """A Parquet file of several row groups."""
    pq.write_table(pa.table(columns), file, row_group_size=rows_in_group)
    return file


def shards_of(*sources: Path, size: int = 2, **columns: str) -> list[Shard]:
    """The pieces of work of these sources."""
    return make_shards(find_files([str(source) for source in sources]), size, **columns)
