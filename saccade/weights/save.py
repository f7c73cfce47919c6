"""Writing weights in our own layout and in the two foreign ones."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from saccade.config import DetectorConfig
from saccade.config_json import VERSION, to_dict
from saccade.weights.huggingface import to_huggingface
from saccade.weights.layouts import layout_kind
from saccade.weights.official import official_args, to_official
from saccade.weights.processor import processor_config


def save_weights(
    folder: str | Path,
    config: DetectorConfig,
    state: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
) -> None:
    """Write our own layout: ``model.safetensors`` and ``config.json``.

    Args:
        folder: Made if it is missing.
        config: The detector.
        state: Its state dict.
        dtype: Store floating-point tensors in another type, such as torch.float16.
    """
    description = {"format": "saccade", "version": VERSION, "detector": to_dict(config)}
    _write_folder(Path(folder), state, dtype, {"config.json": description})


def save_huggingface(
    folder: str | Path, config: DetectorConfig, state: Mapping[str, Tensor]
) -> None:
    """Write a folder that transformers' ``from_pretrained`` reads, models and image processor.

    Raises:
        ValueError: If transformers has no such detector.
    """
    tensors, hf_config = to_huggingface(state, config)
    processor = processor_config(config, layout_kind(config))
    files = {"config.json": hf_config, "preprocessor_config.json": processor}
    _write_folder(Path(folder), tensors, None, files)


def save_official(file: str | Path, config: DetectorConfig, state: Mapping[str, Tensor]) -> None:
    """Write a ``.pth`` file as the official repositories do.

    Raises:
        ValueError: If they have no such detector.
    """
    tensors = {key: _plain(tensor) for key, tensor in to_official(state, config).items()}
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(file)
    torch.save({"model": tensors, "args": official_args(config)}, partial)
    os.replace(partial, file)


def _write_folder(
    folder: Path,
    state: Mapping[str, Tensor],
    dtype: torch.dtype | None,
    files: Mapping[str, dict[str, Any]],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: _plain(tensor, dtype) for key, tensor in state.items()}
    for name, content in files.items():
        text = json.dumps(content, indent=2, ensure_ascii=False)
        _partial(folder / name).write_text(f"{text}\n", "utf-8")
    weights = "model.safetensors"
    save_file(tensors, _partial(folder / weights), metadata={"format": "pt"})
    # What stood there stays until everything is complete; no description precedes its weights.
    for name in (weights, *files):
        os.replace(_partial(folder / name), folder / name)


def _partial(file: Path) -> Path:
    return file.with_name(f"{file.name}.partial")


def _plain(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """On the CPU, contiguous, and in memory of its own."""
    wanted = dtype if tensor.is_floating_point() else None
    return tensor.detach().to("cpu", wanted, copy=True).contiguous()
