"""What a detector costs: its parameters, and the multiply-adds that an image takes.

The counts need neither weights nor memory: the detector is built, and run, on tensors that have
shapes but no data.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torchvision as torchvision  # defines torch.ops.torchvision
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from saccade.config import DetectorConfig
from saccade.model import DetectorModel
from saccade.model.region_proposals import RegionProposals
from saccade.structures import Batch

AVERAGE_SIZE = (800, 1120)
"""(height, width) in pixels of an average image of COCO's val2017 after the usual resizing to a
shorter side of 800, a longer one of at most 1333: 45 of them average 800 x 1118 pixels."""


@dataclass(frozen=True)
class Counts:
    """What a detector costs."""

    parameters: int
    """All of them, the frozen stem and first stage included, as the papers count."""
    trained: int
    """Those that a training run changes."""
    flops: int
    """Multiply-adds of one image, each counted as one, as the papers do."""
    flops_by_part: dict[str, int]
    """The same for each part of the detector; they add up to `flops`."""


def count(config: DetectorConfig, size: tuple[int, int] = AVERAGE_SIZE) -> Counts:
    """Parameters and FLOPs of a detector.

    As DETR counted (section 4.1 there; facebookresearch/detr, issue 110), and with it the papers
    that compare themselves: convolutions and matrix products, a multiplication and its addition
    together as one; no norms, activations, softmaxes or additions; no backward. Deformable
    attention adds five for each channel of a sample, four for the bilinear interpolation and one
    for the weighted sum (Deformable DETR, appendix A.1), deformable convolution and RoIAlign
    the same four. PyTorch's own counter does all but these; it counts two where the papers count
    one. Of region proposals there are as many as there may be; choosing them costs nothing here.

    The published figures average over the first 100 images of val2017. A single image of the
    average size comes within 3 % of each of them, but not closer: those of DETR ask for images
    about 1130 pixels wide, those of Deformable DETR with a single scale for 1090.

    Args:
        config: The detector.
        size: (height, width) of the image in pixels, as it enters the backbone.

    Raises:
        ValueError: If the image has fewer tokens than a two-stage detector takes proposals.
    """
    with torch.device("meta"):
        model = DetectorModel(config).eval()
        images = torch.zeros(1, 3, *size)
        mask = torch.zeros(1, *size, dtype=torch.bool)
    parameters = list(model.parameters())
    trained = sum(each.numel() for each in parameters if each.requires_grad)
    # The counter looks for the gradients of whatever asks for some.
    model.requires_grad_(False)
    if isinstance(model.selection, RegionProposals):
        _forget_where_regions_lie(model.selection)
    with FlopCounterMode(display=False, depth=2, custom_mapping=FORMULAS) as counter:
        model(Batch(images, mask, (size,)))
    by_module = counter.get_flop_counts()
    parts = {
        name: sum(by_module.get(f"{type(model).__name__}.{name}", {}).values()) // 2
        for name, _ in model.named_children()
    }
    return Counts(
        parameters=sum(each.numel() for each in parameters),
        trained=trained,
        flops=counter.get_total_flops() // 2,
        flops_by_part={name: flops for name, flops in parts.items() if flops},
    )


def _sampling_flops(
    value: Sequence[int],
    sides: Sequence[int],  # noqa: ARG001 - the counter passes what the operator gets
    points: Sequence[int],  # noqa: ARG001
    references: Sequence[int],  # noqa: ARG001
    offsets: Sequence[int],
    *rest: Any,  # noqa: ARG001
    **shapes: Any,  # noqa: ARG001
) -> int:
    """Twice five multiply-adds for each of D channels of B x Q x M x K samples."""
    return 2 * 5 * prod(offsets[:-1]) * value[-1]


def _deformable_convolution_flops(
    inputs: Sequence[int],
    weight: Sequence[int],
    *rest: Any,  # noqa: ARG001
    out_shape: Sequence[int],
    **options: Any,  # noqa: ARG001
) -> int:
    """Those of a convolution, and four multiply-adds to interpolate each channel of a sample."""
    positions = out_shape[0] * prod(out_shape[2:])
    taps = prod(weight[2:])
    return 2 * positions * taps * (weight[0] * weight[1] + 4 * inputs[1])


def _region_align_flops(
    level: Sequence[int],  # noqa: ARG001
    regions: Sequence[int],  # noqa: ARG001
    scale: float,  # noqa: ARG001
    height: int,  # noqa: ARG001
    width: int,  # noqa: ARG001
    sampling_ratio: int,
    *rest: Any,  # noqa: ARG001
    out_shape: Sequence[int],
    **options: Any,  # noqa: ARG001
) -> int:
    """Twice four multiply-adds to interpolate each channel of each sample."""
    return 2 * 4 * sampling_ratio**2 * prod(out_shape)


def _forget_where_regions_lie(selection: RegionProposals) -> None:
    """Propose as many regions as may be and read all from the finest level: shapes hold no data."""
    network, align = selection.network, selection.align

    def first(proposals: Tensor, *rest: object) -> tuple[list[Tensor], list[Tensor]]:  # noqa: ARG001
        return list(proposals[:, : selection.config.num_tokens]), []

    def finest(regions: Tensor) -> list[Tensor]:
        rows = torch.arange(len(regions), device=regions.device)
        return [rows] + [rows[:0]] * (len(align.strides) - 1)

    network.filter_proposals = first
    align.rows_of = finest  # type: ignore[method-assign]


FORMULAS: dict[Any, Callable[..., int]] = {
    torch.ops.saccade.ms_deform_attn_fused: _sampling_flops,
    torch.ops.torchvision.deform_conv2d: _deformable_convolution_flops,
    torch.ops.torchvision.roi_align: _region_align_flops,
}
