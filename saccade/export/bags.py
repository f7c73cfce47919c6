"""Deformable attention for OpenVINO: a weighted sum of rows, which it has an operator for.

Each query of a head sums 4 K rows of the value: the four tokens around each of its K samples. In
a third of the time of GridSample on a CPU, but for images of one size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

DOMAIN = "saccade"
"""Of the operator in the ONNX file on the way to OpenVINO, which never leaves this package."""
_MOST_ROWS = 1 << 24
"""Numbers of rows are calculated in float32, which holds integers up to here."""


@torch.library.custom_op("saccade::sum_rows", mutates_args=())
def sum_rows(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Of each line of `rows` [N, T], the weighted sum of these rows of `table` [R, D]: [N, D]."""
    return torch.einsum("nt,ntd->nd", weights, table[rows.long()])


@sum_rows.register_fake
def _(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:  # noqa: ARG001
    return table.new_empty(rows.shape[0], table.shape[1])


def attention_by_bags(
    value: Float[Tensor, "B S M D"],
    sides: Sequence[int],
    points: Sequence[int],
    references: Float[Tensor, "B Q L R"],
    offsets: Float[Tensor, "B Q M K 2"],
    logits: Float[Tensor, "B Q M K"],
    box_scale: float,
    backend: str,  # noqa: ARG001 - the operator's
) -> Float[Tensor, "B Q M*D"]:
    """What ``torch.ops.saccade.ms_deform_attn_fused`` calculates, the sizes being numbers."""
    num_images, num_tokens, num_heads, num_channels = value.shape
    num_queries, num_samples = offsets.shape[1], offsets.shape[3]
    assert num_images * num_tokens * num_heads <= _MOST_ROWS
    levels = [level for level, count in enumerate(points) for _ in range(count)]
    size = _each(levels, [(sides[2 * level + 1], sides[2 * level]) for level in levels])
    areas = [sides[2 * level] * sides[2 * level + 1] for level in range(len(points))]
    first = _each(levels, [sum(areas[:level]) for level in levels])
    centres = references[:, :, levels][:, :, None]
    if references.shape[-1] == 2:
        place = centres * size - 0.5 + offsets
    else:
        share = _each(levels, [box_scale / max(1, points[level]) for level in levels])
        place = (centres[..., :2] + offsets * (centres[..., 2:] * share[:, None])) * size - 0.5
    # [B, Q, M, 4, K]: the four tokens around each sample.
    x, y = (place[..., axis][..., None, :] for axis in (0, 1))
    right, lower = (
        torch.tensor(steps)[:, None] for steps in ((0.0, 1.0, 0.0, 1.0), (0.0, 0.0, 1.0, 1.0))
    )
    column, row = x.floor() + right, y.floor() + lower
    width, height = size.unbind(1)
    inside_x, inside_y = (
        torch.minimum(at.clamp(min=0.0), side - 1) for at, side in ((column, width), (row, height))
    )
    share_x = torch.where(inside_x == column, 1 - (x - column).abs(), 0.0)
    share_y = torch.where(inside_y == row, 1 - (y - row).abs(), 0.0)
    weights = share_x * share_y * logits.softmax(-1)[..., None, :]
    images = torch.arange(num_images, dtype=torch.float32) * (num_tokens * num_heads)
    heads = torch.arange(num_heads, dtype=torch.float32)
    start = (images[:, None] + heads)[:, None, :, None, None]
    rows = (inside_y * width + inside_x + first) * num_heads + start
    summed = sum_rows(
        value.reshape(-1, num_channels),
        rows.to(torch.int32).view(-1, 4 * num_samples),
        weights.view(-1, 4 * num_samples),
    )
    return summed.view(num_images, num_queries, num_heads * num_channels)


def _each(levels: Sequence[int], values: Sequence[Any]) -> Tensor:
    assert len(levels) == len(values)
    return torch.tensor(values, dtype=torch.float32)


def translation() -> dict[Any, Any]:
    """For `torch.onnx.export`: the operator as one of our own domain."""
    from onnx import defs
    from onnxscript import values

    kinds = {"table": "tensor(float)", "rows": "tensor(int32)", "weights": "tensor(float)"}
    schema = defs.OpSchema(
        "SumRows",
        DOMAIN,
        1,
        inputs=[defs.OpSchema.FormalParameter(name, kind) for name, kind in kinds.items()],
        outputs=[defs.OpSchema.FormalParameter("sums", "tensor(float)")],
    )
    operator = values.Op(values.Opset(DOMAIN, 1), "SumRows", schema)

    def sums(table: Any, rows: Any, weights: Any) -> Any:
        return operator(table, rows, weights)

    return {torch.ops.saccade.sum_rows.default: sums}


def extension() -> Any:
    """For OpenVINO's reader: that operator as a bag of embeddings."""
    from openvino import opset13
    from openvino.frontend.onnx import ConversionExtension

    def bags(node: Any) -> Any:
        table, rows, weights = (node.get_input(index) for index in range(3))
        return opset13.embedding_bag_packed_sum(table, rows, weights).outputs()

    return ConversionExtension("SumRows", DOMAIN, bags)
