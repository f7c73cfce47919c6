"""INT8 after training: weights and activations in eight bits, but for what is sensitive."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from saccade.export.onnx_file import needed
from saccade.export.onnx_graph import module_of, sampling_modules
from saccade.export.runtimes import switch_telemetry_off

FRAGILE = {
    r"[^/]*attention/.*": "where samples are, and how much each counts",
    r"positions[./].*": "sines of positions",
    r"(encoder|decoder)/.*": "reference points, and boxes that are refined",
    r"(^|.*\.)sampling_offsets/.*": "an eighth of a pixel of an offset moves small objects",
    r"(^|.*\.)attention_weights/.*": "logits of a softmax over the samples",
    r"(^|.*\.)reference_points/.*": "where queries start",
    r"(^|.*\.)(class_head|box_head|class_heads|box_heads)[./].*": "scores and boxes themselves",
    r"(queries|selection)[./].*": "the first stage, whose best proposals are chosen by score",
}
"""Which modules stay in float32 in every precision, by "module/", and why."""
SENSITIVE = FRAGILE | {
    r"decoder\.layers\.\d+\.(self_attention|ffn|self_norm|cross_norm)[./].*": (
        "few queries: nothing to win"
    ),
    r"decoder\.layers\.\d+\.cross_attention\.output_projection/.*": "few queries: nothing to win",
}
"""Which stay in float32 when others are in eight bits."""

_PRODUCTS = ("Convolution", "GroupConvolution", "MatMul")
_BETWEEN = ("Add", "Relu", "MaxPool")
"""What is between a backbone's convolutions, and had better not leave eight bits either."""


def is_sensitive(module: str) -> bool:
    """Whether a linear layer, such as "decoder.heads.class_heads.0", stays in float32."""
    return _is_of(SENSITIVE, module)


def is_fragile(module: str) -> bool:
    """Whether a module stays in float32 even if others are in float16."""
    return _is_of(FRAGILE, module)


def _is_of(patterns: Mapping[str, str], module: str) -> bool:
    return any(re.match(pattern, f"{module}/") for pattern in patterns)


def quantise(model: Any, images: Sequence[Tensor], kept: Sequence[str] | None = None) -> Any:
    """An OpenVINO model with convolutions and large matrix products in INT8.

    Args:
        model: An `openvino.Model`; without `kept`, read from an ONNX file of ours, whose
            operations are named after modules.
        images: uint8 [B, 3, H, W], of the sizes that the model takes, which the ranges of
            activations are read off.
        kept: Operations that stay in float32; by default those of `SENSITIVE` modules, and
            everything but convolutions, matrix products and what is between convolutions.
    """
    nncf = _nncf()
    dataset = nncf.Dataset([image.numpy() for image in images])
    return nncf.quantize(
        model,
        dataset,
        subset_size=len(images),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(
            names=_kept(model) if kept is None else list(kept),
            types=["EmbeddingBagPackedSum", "GridSample"],
            validate=False,
        ),
    )


def _kept(model: Any) -> list[str]:
    """The names of the operations that stay in float32."""
    operations = [(each.get_type_name(), each.get_friendly_name()) for each in model.get_ops()]
    sampling = sampling_modules(operations)
    return [
        name for kind, name in operations if not _in_eight_bits(kind, module_of(name), sampling)
    ]


def _in_eight_bits(kind: str, module: str, sampling: set[str]) -> bool:
    if kind in _PRODUCTS:
        return bool(module) and not is_sensitive(module)
    return kind in _BETWEEN and module.startswith("backbone") and module not in sampling


def _nncf() -> Any:
    switch_telemetry_off()
    import logging

    # It looks for CUDA when it is imported, and says so when there is none.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    nncf = needed("nncf")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf
