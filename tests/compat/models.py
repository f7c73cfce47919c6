"""A small random model of every architecture of transformers that carries the operator."""

from typing import Any

import torch
import transformers
from torch import Tensor

from .configurations import SIZE, arguments_of

_NAMES = {
    "deformable_detr": "DeformableDetrForObjectDetection",
    "rt_detr": "RTDetrForObjectDetection",
    "rt_detr_v2": "RTDetrV2ForObjectDetection",
    "d_fine": "DFineForObjectDetection",
    "deimv2": "Deimv2ForObjectDetection",
    "lw_detr": "LwDetrForObjectDetection",
    "rf_detr": "RfDetrForObjectDetection",
    "grounding_dino": "GroundingDinoForObjectDetection",
    "mm_grounding_dino": "MMGroundingDinoForObjectDetection",
    "omdet_turbo": "OmDetTurboForObjectDetection",
    "pp_doclayout_v2": "PPDocLayoutV2ForObjectDetection",
    "pp_doclayout_v3": "PPDocLayoutV3ForObjectDetection",
    "pp_doclayout_v4": "PPDocLayoutV4ForObjectDetection",
    "mask2former": "Mask2FormerForUniversalSegmentation",
    "oneformer": "OneFormerForUniversalSegmentation",
}
ARCHITECTURES = [name for name, model in _NAMES.items() if hasattr(transformers, model)]

NUM_OPERATORS = {"deformable_detr": 3, "grounding_dino": 3, "mm_grounding_dino": 3}
"""Layers that carry the operator; two in all others, which have it in one half only."""


def build(architecture: str, **changes: Any) -> torch.nn.Module:
    """The model in evaluation mode, weights random everywhere, so that no offset is a whole pixel.

    On a whole pixel the sampled value has a kink, and rounding decides which slope is returned.
    """
    torch.manual_seed(0)
    kind = getattr(transformers, _NAMES[architecture])
    model = kind(kind.config_class(**{**arguments_of(architecture), **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def inputs(architecture: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Two images, the second padded for models that can know it."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, SIZE, SIZE, generator=generator, dtype=dtype)
    given = {"pixel_values": images}
    if architecture != "omdet_turbo":
        given["pixel_mask"] = torch.ones(2, SIZE, SIZE, dtype=torch.long)
        given["pixel_mask"][1, 80:] = 0
        given["pixel_mask"][1, :, 100:] = 0
    if architecture in ("grounding_dino", "mm_grounding_dino"):
        given["input_ids"] = torch.tensor([[5, 7, 8, 9, 6, 1, 2, 3]] * 2)
    if architecture == "oneformer":
        given["task_inputs"] = torch.ones(2, 8, dtype=dtype)
    if architecture == "omdet_turbo":
        for name, rows in (("classes", 4), ("tasks", 2)):
            given[f"{name}_input_ids"] = torch.arange(6).expand(rows, 6)
            given[f"{name}_attention_mask"] = torch.ones(rows, 6, dtype=torch.long)
        given["classes_structure"] = torch.tensor([2, 2])
    return given
