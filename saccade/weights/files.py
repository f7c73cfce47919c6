"""Reading weights from files and the hub, without ever executing a pickle."""

import argparse
import json
import pickle
import re
import struct
import warnings
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

# What torch's readers and the unpickler raise, depending on where the bytes are damaged.
_DAMAGE = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED = "pytorch_model.bin"
"""What repositories hold that were uploaded before safetensors."""


def find_source(source: str | Path, revision: str | None = None) -> Path:
    """The file or folder itself, or the local copy of a hub repository.

    Raises:
        ValueError: If there is neither, or the hub does not answer.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path.parent if path.name == _WEIGHTS else path
    if path.suffix in (".pth", ".pt", ".safetensors") or str(source).count("/") != 1:
        raise ValueError(
            f"{source} does not exist: expected a .pth file, a folder with config.json and "
            f"{_WEIGHTS}, or the owner/name of a model on the Hugging Face hub."
        )
    return _download(str(source), revision)


def _download(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    def fetch(weights: str) -> Path:
        patterns = ["*.json", weights]
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))

    try:
        folder = fetch("*.safetensors")
        if not any(folder.glob("*.safetensors")):
            folder = fetch(_PICKLED)
    except (OSError, ValueError) as error:
        # Of the hub's long messages the first line says what happened.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{repository} is no local path and could not be fetched from the Hugging Face hub "
            f"({reason}): check the name and the network, or pass a local folder."
        ) from error
    return folder


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], Namespace | None]:
    """The tensors and the ``args`` of an official file.

    Raises:
        ValueError: If it is damaged, no checkpoint, or holds objects that would have to be
            executed to be read.
        OSError: If it may not be read.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        if unsafe := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{path} holds the Python object {unsafe[1]} beside its tensors, which is not read "
                "because reading it could run code: save the tensors alone."
            ) from error
        raise ValueError(
            f"{path} cannot be read as a PyTorch checkpoint: it is truncated or of another format; "
            "fetch it again."
        ) from error
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(tensor, Tensor) for tensor in state.values())
    ):
        raise ValueError(
            f'{path} holds no state dict: expected tensors by name, alone or under "model", as the '
            "official repositories save them."
        )
    args = content.get("args")
    return dict(state), args if isinstance(args, Namespace) else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object.

    Raises:
        ValueError: If it is missing or not valid.
    """
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}: expected it beside {_WEIGHTS}.")
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): write it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}: expected an object.")
    return content


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder, from one file or from the shards that its index names.

    Where there is none of these, from a ``pytorch_model.bin``, whose pickle is not executed.

    Raises:
        ValueError: If a file is missing or damaged, or the index names one outside the folder.
        OSError: If a file may not be read.
    """
    shards = [_WEIGHTS]
    if not (folder / _WEIGHTS).is_file() and (folder / _INDEX).is_file():
        shards = _shards(folder / _INDEX)
    elif not (folder / _WEIGHTS).is_file() and (folder / _PICKLED).is_file():
        return read_checkpoint(folder / _PICKLED)[0]
    state: dict[str, Tensor] = {}
    for shard in shards:
        if not (folder / shard).is_file():
            raise ValueError(
                f"{folder} has no {shard}: expected the weights beside config.json, in "
                f"{_WEIGHTS} or in the shards that {_INDEX} names."
            )
        try:
            state |= load_file(folder / shard)
        except SafetensorError as error:
            raise ValueError(
                f"{folder / shard} cannot be read ({error}): it is truncated or no safetensors "
                "file; fetch or write it again."
            ) from error
    return state


def _shards(index: Path) -> list[str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(
            f"{index} says weight_map {weight_map!r}: expected the file of every tensor, by the "
            "tensor's name."
        )
    for shard in weight_map.values():
        if not isinstance(shard, str) or not re.fullmatch(r"[^/\\:]+\.safetensors", shard):
            raise ValueError(
                f"{index} names the file {shard!r}: expected a .safetensors file of the same "
                "folder, by its name alone."
            )
    return sorted(set(weight_map.values()))
