"""INT8 after training: weights and activations in eight bits, but for what is sensitive."""

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from saccade.export.onnx_file import needed
from saccade.export.runtimes import switch_telemetry_off

SENSITIVE = {
    r"[^/]*attention/.*": "where samples are, and how much each counts",
    r"positions[./].*": "sines of positions",
    r"(encoder|decoder)/.*": "reference points, and boxes that are refined",
    r"[^/]+$": "the normalisation of pixels",
    r"(^|.*\.)sampling_offsets/.*": "an eighth of a pixel of an offset moves small objects",
    r"(^|.*\.)attention_weights/.*": "logits of a softmax over the samples",
    r"(^|.*\.)reference_points/.*": "where queries start",
    r"(^|.*\.)(class_head|box_head|class_heads|box_heads)[./].*": "scores and boxes themselves",
    r"queries[./].*": "the first stage, whose best proposals are chosen by score",
    r"decoder\.layers\.\d+\.(self_attention|ffn|self_norm|cross_norm)[./].*": (
        "few queries: nothing to win"
    ),
    r"decoder\.layers\.\d+\.cross_attention\.output_projection/.*": "few queries: nothing to win",
}
"""Which nodes of the graph stay in float32, by name, and why."""


def is_sensitive(module: str) -> bool:
    """Whether a linear layer, such as "decoder.heads.class_heads.0", stays in float32."""
    return any(re.match(pattern, f"{module}/") for pattern in SENSITIVE)


def quantise(model: Any, images: Sequence[Tensor], kept: Sequence[str] | None = None) -> Any:
    """An OpenVINO model with convolutions and large matrix products in INT8.

    Args:
        model: An `openvino.Model`.
        images: uint8 [1, 3, H, W], of the sizes that the model takes, which the ranges of
            activations are read off.
        kept: Operations that stay in float32; by default those that `SENSITIVE` names.
    """
    nncf = _nncf()
    named = {"patterns": list(SENSITIVE)} if kept is None else {"names": list(kept)}
    dataset = nncf.Dataset([image.numpy() for image in images])
    return nncf.quantize(
        model,
        dataset,
        subset_size=len(images),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(
            **named, types=["EmbeddingBagPackedSum", "GridSample"], validate=False
        ),
    )


def _nncf() -> Any:
    switch_telemetry_off()
    import logging

    # It looks for CUDA when it is imported, and says so when there is none.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    nncf = needed("nncf")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf
