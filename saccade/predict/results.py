"""Where the answers of a prediction go."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from saccade.inference.coco_ids import CocoIds
from saccade.inference.detections import to_detections
from saccade.inference.records import to_coco_results, to_record
from saccade.inference.stream import NotSeen, Seen
from saccade.inference.writers import JsonLines, JsonList, coco_images_file
from saccade.predict.arguments import PredictArguments
from saccade.predict.pictures import Pictures

REMEMBERED = 20
"""Errors that are named at the end; all of them are in unreadable.jsonl."""


class Results:
    """Writes each answer at once, in every form that is wanted."""

    def __init__(
        self,
        arguments: PredictArguments,
        out: Path,
        files: Sequence[Path],
        class_names: Sequence[str],
        ids: CocoIds | None,
    ) -> None:
        """Open the files.

        Args:
            arguments: Say the forms and the threshold.
            out: The folder, which exists.
            files: Of the images, by the key of the answers.
            class_names: The detector's.
            ids: For COCO results; None without them.

        Raises:
            OSError: If a file cannot be written.
        """
        self.num_objects = self.num_images = self.num_unreadable = 0
        self.unreadable: list[str] = []
        self.written: list[str] = []
        """What is in the folder then."""
        self._out = out
        self._files = files
        self._names = tuple(class_names)
        self._threshold = arguments.threshold
        self._ids = ids
        self._stack = ExitStack()
        enter = self._stack.enter_context
        # What an earlier run with this folder could not read is not of this run.
        (out / "unreadable.jsonl").unlink(missing_ok=True)
        self._bad: JsonLines | None = None
        self._pictures = enter(Pictures(out)) if arguments.pictures else None
        self._lines: JsonLines | None = None
        self._coco: JsonList | None = None
        self._images: JsonList | None = None
        if self._pictures is not None:
            self.written.append("pictures")
        if "jsonl" in arguments.formats:
            self._lines = enter(JsonLines(out / "predictions.jsonl"))
            self.written.append("predictions.jsonl")
        if ids is not None:
            self._coco = enter(JsonList(out / "predictions.json"))
            self.written.append("predictions.json")
        if ids is not None and ids.sizes is None:
            self._images = enter(coco_images_file(out / "images.json", self._names))

    def write(self, answer: Seen[int] | NotSeen[int]) -> None:
        """Write one answer.

        Raises:
            OSError: If a file cannot be written.
        """
        if isinstance(answer, NotSeen):
            self._write_error(answer)
            return
        file, shown = self._files[answer.key], answer.shown
        detections = to_detections(answer.found, shown.size, self._threshold, self._names)
        picture = None
        if self._pictures is not None and shown.pixels is not None:
            picture = self._pictures.draw(file, shown.pixels, detections)
        if self._lines is not None:
            self._lines.write(to_record(str(file), shown.size, detections, picture))
        if self._coco is not None and self._ids is not None:
            image_id = self._ids.images[answer.key]
            self._coco.write(to_coco_results(image_id, self._ids.categories, detections))
            if self._images is not None:
                height, width = shown.size
                entry = {"id": image_id, "file_name": file.as_posix()}
                self._images.write([entry | {"width": width, "height": height}])
        self.num_objects += len(detections)
        self.num_images += 1

    def _write_error(self, answer: NotSeen[int]) -> None:
        if self._bad is None:
            self._bad = self._stack.enter_context(JsonLines(self._out / "unreadable.jsonl"))
        self._bad.write({"file": str(self._files[answer.key]), "error": str(answer.error)})
        self.num_unreadable += 1
        if len(self.unreadable) < REMEMBERED:
            self.unreadable.append(str(answer.error))

    def __enter__(self) -> "Results":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)
