"""One exported file of a detector, whatever it is for."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from saccade.config import DetectorConfig
from saccade.export.attention import attention_by_grid_sample
from saccade.export.bags import attention_by_bags
from saccade.export.description import Description
from saccade.export.fp16 import halve_onnx
from saccade.export.onnx_file import write_onnx
from saccade.export.openvino_file import to_openvino, write_openvino
from saccade.export.program import Operator, Sizes, capture
from saccade.export.quantise import quantise
from saccade.export.quantise_onnx import quantise_onnx
from saccade.model import DetectorModel

Target = Literal["onnx", "openvino", "torch"]
Precision = Literal["fp32", "fp16", "int8"]
SUFFIX = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}


@dataclass(frozen=True)
class Order:
    """What is to be written."""

    target: Target
    sizes: Sizes = field(default_factory=Sizes)
    precision: Precision = "fp32"
    calibration: Sequence[UInt8[Tensor, "1 3 H W"]] = field(default=(), repr=False)
    """For int8."""
    threshold: float = 0.3

    def __post_init__(self) -> None:
        if self.target == "torch" and self.precision != "fp32":
            raise ValueError(
                f"a torch program is written in fp32, not {self.precision}: export to onnx or "
                "openvino, or leave out --precision."
            )


def write_file(
    order: Order,
    config: DetectorConfig,
    model: DetectorModel,
    folder: Path,
    probes: Sequence[str] = (),
    attention: Operator | None = None,
) -> tuple[Path, Description]:
    """Write a detector.

    Args:
        order: What to write.
        config: The detector's.
        model: In evaluation mode, on the CPU, in float32.
        folder: Where; the file is called "model".
        probes: Modules whose outputs become outputs of the file too.
        attention: What deformable attention becomes, if not what is best for the target.

    Raises:
        ValueError: If the detector cannot be written so, or a package is missing.
    """
    of_one_size = order.target == "openvino" and order.sizes.fixed
    attention = attention or (attention_by_bags if of_one_size else attention_by_grid_sample)
    program = capture(config, model, order.sizes, probes, attention)
    description = Description(
        config, order.target, order.precision, str(order.sizes), order.threshold
    )
    file = folder / f"model{SUFFIX[order.target]}"
    outputs = ("logits", "boxes", *probes)
    if order.target == "torch":
        held = {"config": json.dumps(description.to_dict()["config"])}
        with warnings.catch_warnings():
            # Said of every parameter that has been folded into another one.
            warnings.filterwarnings("ignore", message="No complete tensor", category=UserWarning)
            torch.export.save(program, file, extra_files=held)
    elif order.target == "onnx":
        write_onnx(program, file, description.to_strings(), outputs)
        if order.precision == "fp16":
            halve_onnx(file)
        if order.precision == "int8":
            quantise_onnx(file, fitting(order.calibration, order.sizes))
    else:
        converted = to_openvino(program, outputs)
        if order.precision == "int8":
            converted = quantise(converted, fitting(order.calibration, order.sizes))
        half = order.precision == "fp16"
        write_openvino(converted, file, description.to_dict(), half)
    return file, description


def fitting(
    images: Sequence[UInt8[Tensor, "1 3 _ _"]], sizes: Sizes
) -> list[UInt8[Tensor, "B 3 H W"]]:
    """Images as a file for these sizes takes them: resized, and repeated to fill a batch."""
    height, width = sizes.height, sizes.width
    fitted = []
    for image in images:
        if height is not None and width is not None:
            image = tv.resize(image, [height, width], antialias=True)
        fitted.append(image.expand(sizes.batch or 1, -1, -1, -1).contiguous())
    return fitted
