"""The processes that look: each holds a detector, and writes the results of whole shards."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from saccade.bulk import attempts
from saccade.bulk.folder import Folder
from saccade.bulk.parts import Summary, read_summary, write_part
from saccade.bulk.reading import Entry, entries_of
from saccade.bulk.shards import Shard
from saccade.data.images import decode_image
from saccade.inference.detections import to_detections
from saccade.inference.engine import Engine
from saccade.inference.looking import Looking, Shown, show
from saccade.inference.reading import image_limit, read_ahead
from saccade.inference.stream import NotSeen, Seen, look_at_all
from saccade.inference.wanted import Wanted

if TYPE_CHECKING:
    from numpy.typing import NDArray

AHEAD = 2
"""Images that are read before they are needed, beside those of the next batch."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is done with every image."""

    open_engine: Callable[[], Engine]
    """Is called once in each process."""
    looking: Looking
    wanted: Wanted
    batch_size: int
    """Most images that are run together."""
    max_megapixels: float
    """Larger images count as unreadable."""
    num_threads: int
    """Of torch in each process."""


class ShardActor:
    """Looks at shards, as Ray Data asks it to."""

    def __init__(self, job: Job, folder: Folder, fingerprint: str) -> None:
        """An actor without its detector, which is opened for the first shard.

        What fails there ends the run; of what fails here Ray Data would try without end.
        """
        torch.set_num_threads(job.num_threads)
        self._job = job
        self._folder = folder
        self._fingerprint = fingerprint
        self._engine: Engine | None = None

    def __call__(self, batch: "dict[str, NDArray[Any]]") -> dict[str, list[Any]]:
        """Write the results of shards.

        Args:
            batch: ``number`` and ``shard``, as JSON, of each.

        Returns:
            ``images``, ``unreadable`` and ``objects`` of each, and ``error``: why it cannot be
            done, or "". Ray would wrap what is raised into pages of its own.
        """
        done: dict[str, list[Any]] = {}
        for number, text in zip(batch["number"], batch["shard"], strict=True):
            error, summary = "", Summary()
            try:
                summary = self._look(int(number), Shard.from_json(str(text)))
            except (ValueError, OSError) as reason:
                error = str(reason)
            for name, value in {**asdict(summary), "error": error}.items():
                done.setdefault(name, []).append(value)
        return done

    def _look(self, number: int, shard: Shard) -> Summary:
        # Ray calls again for what a process had done before it was lost.
        summary = read_summary(self._folder, number, self._fingerprint)
        if summary is not None:
            return summary
        attempts.begin(self._folder, number, shard)
        if self._engine is None:
            self._engine = self._job.open_engine()
        rows = look_at_shard(self._engine, shard, self._job)
        summary = write_part(self._folder, number, self._fingerprint, rows)
        attempts.end(self._folder, number)
        return summary


def look_at_shard(engine: Engine, shard: Shard, job: Job) -> Iterator[dict[str, Any]]:
    """The rows of a shard's results, in the order of its images.

    Raises:
        OSError: If a tar or Parquet file cannot be opened.
    """

    def read(entry: Entry) -> Shown:
        pixels = decode_image(entry.take(), entry.label)
        return show(pixels, engine.config.input, job.looking)

    with image_limit(job.max_megapixels):
        images = read_ahead(entries_of(shard), read, job.batch_size + AHEAD)
        try:
            for answer in look_at_all(engine, images, job.looking, job.wanted, job.batch_size):
                yield _row(answer, engine.config.class_names, job.wanted.threshold)
        finally:
            images.close()


def _row(
    answer: Seen[Entry] | NotSeen[Entry], class_names: tuple[str, ...], threshold: float
) -> dict[str, Any]:
    row: dict[str, Any] = {"file": answer.key.file, "key": answer.key.key}
    if isinstance(answer, NotSeen):
        text = str(answer.error) or type(answer.error).__name__
        return row | {"error": text.encode("utf-8", "backslashreplace").decode("utf-8")}
    size = answer.shown.size
    detections = to_detections(answer.found, size, threshold, class_names)
    assert detections.confidence is not None
    assert detections.class_id is not None
    return row | {
        "height": size[0],
        "width": size[1],
        "boxes": detections.xyxy.tolist(),
        "scores": detections.confidence.tolist(),
        "labels": detections.class_id.tolist(),
        "classes": [str(name) for name in detections.data["class_name"]],
    }
