"""One part of a dataset on disk, whatever its format."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from saccade.data.annotations import Annotations


@dataclass(frozen=True)
class Split(ABC):
    """Where the images of one part of a dataset are, and what says what is on them."""

    images: Path
    """The folder that the file names of the images start from."""
    annotations: Path
    """The file or the folder that marks the objects."""

    @abstractmethod
    def read(self) -> Annotations:
        """What the files say, checked entry by entry.

        Raises:
            OSError: If a file cannot be opened.
            ValueError: If one is unusable; the message names it and the entry.
        """

    @abstractmethod
    def annotation_files(self) -> list[Path]:
        """Every file that marks objects of this part."""


@dataclass(frozen=True)
class Format:
    """How datasets of one format are recognised."""

    find: Callable[[Path, str], Split | None]
    """The split of that name in a folder, if the folder is of this format and has it."""
    sought: Callable[[str], list[str]]
    """What `find` looks for, in words."""
    splits: Callable[[Path], list[str]]
    """The names of the splits in a folder."""
