"""Which detectors the foreign layouts can hold, and the ResNets that both of them name."""

from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter
from typing import Literal

from torch import Tensor

from saccade.config import DetectorConfig

Kind = Literal["deformable_detr", "detr"]

RESNETS: dict[tuple[str, tuple[int, ...]], str] = {
    ("basic", (2, 2, 2, 2)): "resnet18",
    ("basic", (3, 4, 6, 3)): "resnet34",
    ("bottleneck", (2, 2, 2, 2)): "resnet26",
    ("bottleneck", (3, 4, 6, 3)): "resnet50",
    ("bottleneck", (3, 4, 23, 3)): "resnet101",
    ("bottleneck", (3, 8, 36, 3)): "resnet152",
}
"""timm's name of a ResNet by its kind of block and its blocks per stage."""

_REQUIRED: dict[Kind, dict[str, object]] = {
    "deformable_detr": {
        "selection.kind": "none",
        "backbone.deformable_levels": (),
        "neck.kind": "projection",
        "encoder.attention": "deformable",
        "encoder.pre_norm": False,
        "encoder.across_levels": True,
        "decoder.attention": "deformable",
        "classification": "sigmoid",
        "neck.norm": "group",
        "positions.centred": True,
        "positions.level_embedding": True,
        "decoder.final_norm": False,
    },
    "detr": {
        "selection.kind": "none",
        "backbone.deformable_levels": (),
        "neck.kind": "projection",
        "encoder.attention": "dense",
        "encoder.pre_norm": False,
        "decoder.attention": "dense",
        "classification": "softmax",
        "neck.norm": "none",
        "neck.num_extra_levels": 0,
        "positions.centred": False,
        "positions.level_embedding": False,
        "queries.source": "learned",
        "queries.content": "zeros",
        "queries.references": False,
        "decoder.final_norm": True,
        "decoder.refined": False,
    },
}


def layout_kind(config: DetectorConfig) -> Kind:
    """Which of the two architectures of the foreign layouts a detector is.

    Raises:
        ValueError: If it is neither: it has a part that they cannot hold.
    """
    kind: Kind = "deformable_detr" if config.encoder.attention == "deformable" else "detr"
    required = dict(_REQUIRED[kind])
    if kind == "deformable_detr":
        learned = config.queries.source == "learned"
        required["queries.content"] = "learned" if learned else "proposal"
    for name, expected in required.items():
        found = attrgetter(name)(config)
        if found != expected:
            raise ValueError(
                f"{name} is {found!r}, which the foreign layouts of {kind} cannot hold: expected "
                f"{expected!r}; save the detector in its own layout instead."
            )
    if kind == "detr" and len(config.backbone.levels) != 1:
        raise ValueError(
            f"backbone.levels is {config.backbone.levels}, but the foreign layouts of detr hold "
            "one level; save the detector in its own layout instead."
        )
    return kind


def check_shared(config: DetectorConfig, fields: Sequence[str], layout: str) -> None:
    """Raises ValueError if encoder and decoder differ in a field that the layout stores once."""
    for field in fields:
        encoder, decoder = getattr(config.encoder, field), getattr(config.decoder, field)
        if encoder != decoder:
            raise ValueError(
                f"encoder.{field} is {encoder!r} but decoder.{field} is {decoder!r}, and the "
                f"{layout} layout stores one for both: save the detector in its own layout instead."
            )


def inference_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the foreign layouts keep: no denoising embedding, no counters of trained norms."""
    return {
        key: tensor
        for key, tensor in state.items()
        if not key.startswith("denoising.") and not key.endswith(".num_batches_tracked")
    }


def resnet_name(keys: Collection[str], stages: str, first: int, third_convolution: str) -> str:
    """timm's name of the ResNet whose tensors are among `keys`.

    Args:
        keys: Tensor names of the whole file.
        stages: What precedes the number of a stage, such as ``backbone.0.body.layer``; its blocks
            are numbered after the stage and, in transformers, after ``.layers``.
        first: The number of the first stage.
        third_convolution: What a tensor's name contains if its block is a bottleneck.

    Raises:
        ValueError: If no known ResNet has these stages and blocks.
    """
    expected = [str(first + index) for index in range(4)]
    blocks: dict[str, set[str]] = {stage: set() for stage in expected}
    for key in keys:
        if key.startswith(stages):
            stage, *rest = key.removeprefix(stages).split(".")
            if stage not in blocks:
                raise ValueError(
                    f"the backbone has the tensor {key}: expected the stages "
                    f"{', '.join(expected)} of a ResNet after {stages}."
                )
            blocks[stage].update([part for part in rest if part.isdigit()][:1])
    bottleneck = any(key.startswith(stages) and third_convolution in key for key in keys)
    structure = ("bottleneck" if bottleneck else "basic", tuple(map(len, blocks.values())))
    if structure not in RESNETS:
        raise ValueError(
            f"the backbone has {structure[1]} {structure[0]} blocks: expected one of "
            f"{', '.join(RESNETS.values())}."
        )
    return RESNETS[structure]
