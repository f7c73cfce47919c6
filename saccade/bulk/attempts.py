"""How often a shard was begun: an image on which processes die must not be tried for ever."""

from saccade.bulk.folder import TRYING, Folder
from saccade.bulk.shards import Shard

MOST = 4
"""Attempts at a shard in a run. Ray itself would go on without end."""


def begin(folder: Folder, number: int, shard: Shard) -> None:
    """Count an attempt.

    Raises:
        ValueError: If there were too many.
        OSError: If the folder cannot be written.
    """
    for attempt in range(MOST):
        name = _marker(number, attempt)
        if not folder.has(name):
            with folder.writing(name) as stream:
                stream.write(b"")
            return
    first, last = (shard.place.label(shard.names[place]) for place in (0, -1))
    span = first if first == last else f"{first} to {last}"
    raise ValueError(
        f"processes were lost {MOST} times while they looked at shard {number}, {span}: an image "
        "there may take more memory than there is (see --max-megapixels), or break its decoder."
    )


def end(folder: Folder, number: int) -> None:
    """Forget the attempts at a shard that is done."""
    for attempt in range(MOST):
        folder.remove(_marker(number, attempt))


def _marker(number: int, attempt: int) -> str:
    return f"{TRYING}{number:06d}-{attempt}"
