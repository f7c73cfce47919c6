"""Files that are there completely or not at all, however their writing ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Give the name of a file beside `file`, to be written; it then takes the place of `file`."""
    partial = file.with_name(f"{file.name}.partial")
    try:
        yield partial
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Write UTF-8; what was there is replaced at once."""
    with replacing(file) as partial:
        partial.write_text(text, "utf-8")
