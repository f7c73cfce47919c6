"""ONNX files in INT8, with pairs of QuantizeLinear and DequantizeLinear."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from saccade.export.onnx_file import needed
from saccade.export.onnx_graph import Graph, fold_norms, module_of
from saccade.export.quantise import is_sensitive

PRODUCTS = ("Conv", "MatMul")


def quantise_onnx(file: Path, images: Sequence[Tensor]) -> None:
    """Write convolutions and large matrix products in INT8, in place.

    Signed and symmetric, weights by channel: what TensorRT takes, too. `SENSITIVE` modules and
    products of two activations stay in float32.

    Args:
        file: Of `write_onnx`.
        images: uint8 [B, 3, H, W], of the sizes that the file takes, which the ranges of
            activations are read off.

    Raises:
        ValueError: If there is no image, or onnx or onnxruntime are not installed.
    """
    if not images:
        raise ValueError("int8 needs images, which ranges of activations are read off: got none.")
    onnx = needed("onnx")
    needed("onnxruntime")
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = onnx.load(file)
    fold_norms(Graph(model.graph))
    held = {each.key: each.value for each in model.metadata_props}
    root = logging.getLogger()
    level = root.level
    # It advises on the root logger to optimise the graph, which is done above.
    root.setLevel(logging.ERROR)
    try:
        quantize_static(
            model,
            file,
            _Reader(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(PRODUCTS),
            nodes_to_exclude=_kept(model.graph),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )
    finally:
        root.setLevel(level)
    written = onnx.load(file)
    onnx.helper.set_model_props(written, held)
    onnx.save(written, file)


def _kept(graph: Any) -> list[str]:
    """The names of the products that stay in float32."""
    numbers = {each.name for each in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type in PRODUCTS
        and (not numbers.intersection(node.input) or is_sensitive(module_of(node.name)))
    ]


class _Reader:
    """Hands images to onnxruntime's calibration, one call at a time."""

    def __init__(self, images: Sequence[Tensor]) -> None:
        self.rest: Iterator[Tensor] = iter(images)

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        """The next call's input; None at the end."""
        image = next(self.rest, None)
        return None if image is None else {"images": image.numpy()}
