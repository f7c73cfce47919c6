"""How images are prepared: transformers' preprocessor_config.json and our `InputConfig`."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saccade.config import DetectorConfig, InputConfig
from saccade.weights.files import read_json
from saccade.weights.huggingface_fields import read_fields
from saccade.weights.layouts import Kind

_NAME = "preprocessor_config.json"
_PROCESSORS: dict[Kind, str] = {
    "deformable_detr": "DeformableDetrImageProcessor",
    "detr": "DetrImageProcessor",
}
_STANDARD = InputConfig()


@dataclass(frozen=True)
class _Stored:
    """What is read of the file, with the defaults of transformers' processors."""

    size: int | dict[str, int] | None = None
    max_size: int | None = None
    image_mean: tuple[float, float, float] = _STANDARD.mean
    image_std: tuple[float, float, float] = _STANDARD.std
    do_normalize: bool = True
    do_resize: bool = True
    do_rescale: bool = True
    rescale_factor: float = 1 / 255


def recognise_processor(config: DetectorConfig, folder: Path) -> DetectorConfig:
    """The detector with the input sizes and the normalisation of its folder, where it has any.

    Raises:
        ValueError: If the file is damaged, or asks for what `InputConfig` cannot describe.
    """
    if not (folder / _NAME).is_file():
        return config
    content = read_json(folder / _NAME)
    stored = read_fields(_Stored, content, _NAME)
    for name in ("do_resize", "do_rescale"):
        if not getattr(stored, name):
            raise ValueError(
                f"{_NAME} says {name} false: expected true, since saccade always does so; set it "
                "if the weights were trained so."
            )
    if not math.isclose(stored.rescale_factor, 1 / 255, rel_tol=1e-4):
        raise ValueError(
            f"{_NAME} says rescale_factor {stored.rescale_factor}: expected 1/255, the only one "
            "that saccade has; put another scale into image_mean and image_std."
        )
    short_side, max_side = _sides(stored)
    # Without normalisation the backbone sees RGB in [0, 1].
    mean = stored.image_mean if stored.do_normalize else (0.0, 0.0, 0.0)
    std = stored.image_std if stored.do_normalize else (1.0, 1.0, 1.0)
    found = InputConfig(short_side=short_side, max_side=max_side, mean=mean, std=std)
    return replace(config, input=found)


def _sides(stored: _Stored) -> tuple[int, int]:
    if not isinstance(stored.size, dict):
        return stored.size or _STANDARD.short_side, stored.max_size or _STANDARD.max_side
    if not {"shortest_edge", "longest_edge"} <= stored.size.keys():
        raise ValueError(
            f"{_NAME} says size {stored.size}: expected shortest_edge and longest_edge, the only "
            "kind of resizing that saccade has."
        )
    return stored.size["shortest_edge"], stored.size["longest_edge"]


def processor_config(config: DetectorConfig, kind: Kind) -> dict[str, Any]:
    """What transformers reads from preprocessor_config.json."""
    return {
        "image_processor_type": _PROCESSORS[kind],
        "format": "coco_detection",
        "do_resize": True,
        "size": {"shortest_edge": config.input.short_side, "longest_edge": config.input.max_side},
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": list(config.input.mean),
        "image_std": list(config.input.std),
        "do_pad": True,
    }
