"""Eight-bit integers in place of float32, for OpenVINO (NNCF's post-training quantisation)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.export import ExportedProgram

from saccade.config import DetectorConfig
from saccade.data import image_suffixes, read_image, resize_image
from saccade.data.shapes import draw_shapes

SENSITIVE = (
    "sampling_offsets",
    "attention_weights",
    "reference_points",
    "class_head",
    "class_heads",
    "box_head",
    "box_heads",
    "token_projection",
)
"""Modules that stay in float32: what says where to look and which proposals are best, since a step
of 1/127 of the largest offset is many pixels, and what scores and boxes are read from. They take a
fifth of the multiply-adds of an encoder layer; the rest, backbone, values and perceptrons, is
quantised."""
MOST_IMAGES = 300
"""More calibrate nothing better (NNCF's own default)."""


def quantise(model: Any, program: ExportedProgram, images: Sequence[np.ndarray[Any, Any]]) -> Any:
    """An OpenVINO model whose convolutions and matrix products are of 8-bit integers.

    Args:
        model: An ``openvino.Model``.
        program: What it was converted from; it tells which operation belongs to which module.
        images: uint8 [1, 3, H, W], as the detector will see them; activations are scaled to what
            is seen in them.
    """
    import nncf

    sensitive = _operations_of(program, SENSITIVE)
    # An operation is named after the node of the graph that it comes from.
    kept = [
        operation.get_friendly_name()
        for operation in model.get_ops()
        if operation.get_type_name() == "MatMul"
        and operation.get_friendly_name().partition("/")[0] in sensitive
    ]
    return nncf.quantize(
        model,
        nncf.Dataset(images),
        subset_size=len(images),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
    )


def calibration_images(config: DetectorConfig, folder: Path | None) -> list[np.ndarray[Any, Any]]:
    """Images to calibrate with, resized for the detector: at most `MOST_IMAGES` of a folder, spread
    evenly over it, or a few generated ones.

    Raises:
        ValueError: If the folder holds no image, or one cannot be read.
    """
    pixels = _generated() if folder is None else map(read_image, _spread(_files(folder)))
    return [resize_image(image, config.input)[None].numpy() for image in pixels]


def _operations_of(program: ExportedProgram, modules: Sequence[str]) -> set[str]:
    """The nodes of linear layers in these modules, by the parameters that they read."""
    parameters = program.graph_signature.inputs_to_parameters
    found = set()
    for node in program.graph.nodes:
        read = [parameters.get(getattr(each, "name", ""), "") for each in node.args]
        if any(set(name.split(".")) & set(modules) for name in read):
            found.add(node.name)
    return found


def _files(folder: Path) -> list[Path]:
    readable = image_suffixes()
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in readable)
    if not files:
        raise ValueError(f"{folder} holds no image to calibrate with: name a folder that does.")
    return files


def _spread(files: Sequence[Path]) -> Iterator[Path]:
    count = min(len(files), MOST_IMAGES)
    return (files[index * len(files) // count] for index in range(count))


def _generated() -> Iterator[Any]:
    raise NotImplementedError
