"""What a folder of results was made of and how, so that it is gone on with in no other way."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.bulk.folder import Folder
from saccade.bulk.shards import Shard

NAME = "_manifest.json"


@dataclass(frozen=True)
class Manifest:
    """Everything that results depend on."""

    options: dict[str, Any]
    """Of the command, by their names."""
    weights: str
    """A digest of their content."""
    images: str
    """A digest of what is in which shard."""
    num_shards: int

    @property
    def fingerprint(self) -> str:
        """The same for the same manifest, and no other."""
        return _digest(_json(self))

    def hold(self, folder: Folder) -> None:
        """Keep this in the folder of results, where nothing or the same must be.

        Raises:
            ValueError: If the folder holds results of other images, weights or options.
            OSError: If the folder cannot be read or written.
        """
        names = folder.names()
        if NAME in names:
            with folder.open(NAME) as stream:
                self._compare(bytes(stream.readall()), folder)
            return
        if any(name.endswith(".parquet") for name in names):
            raise ValueError(
                f"--out {folder.root} holds Parquet files and no {NAME}, so they are of something "
                "else: name another folder."
            )
        folder.create()
        with folder.writing(NAME) as stream:
            stream.write(_json(self))

    def _compare(self, content: bytes, folder: Folder) -> None:
        try:
            before = Manifest(**json.loads(content))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{folder.path(NAME)} is no manifest of this command ({error}): name another --out."
            ) from error
        other = [
            f"--{name.replace('_', '-')} {before.options.get(name)!r}, now {value!r}"
            for name, value in self.options.items()
            if before.options.get(name) != json.loads(json.dumps(value))
        ]
        if before.weights != self.weights:
            other.append("other weights")
        if (before.images, before.num_shards) != (self.images, self.num_shards):
            other.append("other images or another --shard-size")
        if other:
            raise ValueError(
                f"--out {folder.root} holds results of {'; '.join(other)}: go on with what it was "
                "begun with, or name another folder."
            )


def digest_of_shards(shards: Sequence[Shard]) -> str:
    """The same for the same images in the same shards."""
    return _digest("\n".join(shard.to_json() for shard in shards).encode())


def digest_of_weights(weights: str) -> str:
    """Of the content of a file, or of the files of a folder; of the name of what is not here."""
    path = Path(weights)
    whole = hashlib.sha256()
    files = sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
    for file in files:
        if not file.is_file():
            whole.update(weights.encode())
            continue
        whole.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                whole.update(block)
    return whole.hexdigest()


def _json(manifest: Manifest) -> bytes:
    return json.dumps(vars(manifest), indent=1, sort_keys=True).encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
