"""Files of results that are complete after every image, whenever the run ends."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

Opened = TypeVar("Opened", bound="_Open")


class _Open:
    """A file that is written from the start, closed at the end of a ``with``."""

    def __init__(self, file: Path) -> None:
        self._stream = file.open("wb")

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()


class JsonLines(_Open):
    """A file with a line of JSON for each entry."""

    def write(self, entry: dict[str, Any]) -> None:
        """Add an entry; a program that reads along sees it at once."""
        self._stream.write(_json(entry) + b"\n")
        self._stream.flush()


class JsonList(_Open):
    """A file with one JSON list, which ends as it should after every `write`."""

    def __init__(self, file: Path, before: bytes = b"[", after: bytes = b"]") -> None:
        """Begin with an empty list.

        Args:
            file: To write; what was there is replaced.
            before: Everything up to the list, its opening bracket included.
            after: Everything from its closing bracket on.
        """
        super().__init__(file)
        self._after = b"\n" + after + b"\n"
        self._separator = b"\n"
        self._stream.write(before + self._after)
        self._stream.flush()

    def write(self, entries: list[dict[str, Any]]) -> None:
        """Add entries."""
        if not entries:
            return
        lines = b",\n".join(_json(entry) for entry in entries)
        # In one write with the new end, which is never shorter than the old one.
        self._stream.seek(-len(self._after), 2)
        self._stream.write(self._separator + lines + self._after)
        self._stream.flush()
        self._separator = b",\n"


def coco_images_file(file: Path, class_names: tuple[str, ...]) -> JsonList:
    """A COCO annotation file without annotations, to whose ``images`` entries are added.

    ``pycocotools.coco.COCO(file).loadRes(results)`` then reads results that number images so.
    Categories are numbered from 1, in the order of the detector's classes.
    """
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(class_names)]
    head = b'{"info": {}, "annotations": [], "categories": ' + _json(categories) + b',\n"images": ['
    return JsonList(file, head, b"]}")


def _json(value: Any) -> bytes:
    # Names of files may hold bytes that are no UTF-8, which JSON can only escape.
    try:
        return json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value).encode("ascii")
