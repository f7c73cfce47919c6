"""How images are prepared: transformers' preprocessor_config.json and our `InputConfig`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from saccade.config import DetectorConfig, InputConfig
from saccade.weights.files import read_json
from saccade.weights.layouts import Kind

_NAME = "preprocessor_config.json"
_PROCESSORS: dict[Kind, str] = {
    "deformable_detr": "DeformableDetrImageProcessor",
    "detr": "DetrImageProcessor",
}


def recognise_processor(config: DetectorConfig, folder: Path) -> DetectorConfig:
    """The detector with the input sizes and the normalisation of its folder, where it has any.

    Raises:
        ValueError: If the file is damaged or asks for another kind of resizing.
    """
    if not (folder / _NAME).is_file():
        return config
    stored = read_json(folder / _NAME)
    standard = InputConfig()
    short, long = standard.short_side, standard.max_side
    size = stored.get("size", {})
    if isinstance(size, int):
        short, long = size, stored.get("max_size", long)
    elif size:
        if not {"shortest_edge", "longest_edge"} <= size.keys():
            raise ValueError(
                f"{_NAME} says size {size}: expected shortest_edge and longest_edge, the only "
                "kind of resizing that saccade has."
            )
        short, long = size["shortest_edge"], size["longest_edge"]
    read = InputConfig(
        short_side=short,
        max_side=long,
        mean=tuple(stored.get("image_mean", standard.mean)),
        std=tuple(stored.get("image_std", standard.std)),
    )
    return replace(config, input=read)


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
