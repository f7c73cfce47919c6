"""The compiled extension of Deformable DETR, without anything compiled.

This module itself is what other repositories get when they import ``MultiScaleDeformableAttention``
after ``install_extension()``. Signatures and results are those of the extension in
fundamentalvision/Deformable-DETR, models/ops/src; its restrictions are not kept: it runs on every
device, in every float dtype, on non-contiguous tensors, for every batch size and im2col_step.
"""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..ops import ms_deform_attn_gradients
from .sampling import sample, without_autocast

Numbers = tuple[Any, ...]
"""Of a tensor, one tuple in another for each dimension."""

_kept: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""By tensor, its version when its numbers were read, and these."""


def ms_deform_attn_forward(
    value: Float[Tensor, "B S M D"],
    spatial_shapes: Int[Tensor, "L 2"],
    level_start_index: Int[Tensor, " L"],
    sampling_loc: Float[Tensor, "B Q M L P 2"],
    attn_weight: Float[Tensor, "B Q M L P"],
    im2col_step: int,  # noqa: ARG001
) -> Float[Tensor, "B Q M*D"]:
    """``saccade.ops.ms_deform_attn`` in the extension's signature.

    Args:
        value: As in ``ms_deform_attn``.
        spatial_shapes: (height, width) of each level in tokens.
        level_start_index: The first token of each level, in the order of ``spatial_shapes``.
        sampling_loc: ``sampling_locations`` of ``ms_deform_attn``.
        attn_weight: ``attention_weights`` of ``ms_deform_attn``.
        im2col_step: Without effect; the extension took so many images at once.

    Returns:
        As ``ms_deform_attn``, in the dtype of ``value`` also under autocast.

    Raises:
        ValueError: As ``ms_deform_attn``, and as ``read_levels``.
    """
    return sample(value, read_levels(spatial_shapes, level_start_index), sampling_loc, attn_weight)


def ms_deform_attn_backward(
    value: Float[Tensor, "B S M D"],
    spatial_shapes: Int[Tensor, "L 2"],
    level_start_index: Int[Tensor, " L"],
    sampling_loc: Float[Tensor, "B Q M L P 2"],
    attn_weight: Float[Tensor, "B Q M L P"],
    grad_output: Float[Tensor, "B Q M*D"],
    im2col_step: int,  # noqa: ARG001
) -> list[Tensor]:
    """The gradients of ``ms_deform_attn_forward``, in the extension's signature.

    Args:
        value: As in ``ms_deform_attn_forward``, and so are all but the next.
        spatial_shapes: As in ``ms_deform_attn_forward``.
        level_start_index: As in ``ms_deform_attn_forward``.
        sampling_loc: As in ``ms_deform_attn_forward``.
        attn_weight: As in ``ms_deform_attn_forward``.
        grad_output: Gradient of what ``ms_deform_attn_forward`` returned.
        im2col_step: Without effect.

    Returns:
        A list of three: the gradients of ``value``, ``sampling_loc`` and ``attn_weight``.

    Raises:
        ValueError: As ``ms_deform_attn_forward``.
    """
    levels = read_levels(spatial_shapes, level_start_index)
    with without_autocast(value.device):
        grads = ms_deform_attn_gradients(grad_output, value, levels, sampling_loc, attn_weight)
    return list(grads)


def read_levels(
    spatial_shapes: Int[Tensor, "L 2"], level_start_index: Int[Tensor, " L"]
) -> list[tuple[int, int]]:
    """(height, width) of each level.

    Raises:
        ValueError: If one is not a tensor of this shape, or a level does not start where the last
            one ends.
    """
    _check_form("spatial_shapes", spatial_shapes, "[L, 2]", row=(2,))
    _check_form("level_start_index", level_start_index, "[L]", row=())
    levels = [(height, width) for height, width in _numbers_of(spatial_shapes)]
    starts = [sum(h * w for h, w in levels[:level]) for level in range(len(levels))]
    given = list(_numbers_of(level_start_index))
    if given != starts:
        raise ValueError(
            f"level_start_index is {given} but levels of (height, width) {levels}, one after "
            f"another, start at {starts}; put the tokens of value into that order."
        )
    return levels


def _check_form(name: str, given: object, shape: str, row: tuple[int, ...]) -> None:
    if isinstance(given, Tensor):
        if given.ndim and given.shape[1:] == row:
            return
        found = f"has shape {list(given.shape)}"
    else:
        found = f"is a {type(given).__name__}"
    raise ValueError(
        f"{name} {found} but a tensor {shape} of whole numbers is expected, as the compiled "
        "extension takes; pass torch.tensor(...) with one row for each level."
    )


def _numbers_of(tensor: Tensor) -> Numbers:
    """The numbers of a tensor; of one on another device once, since a read stalls that device.

    A model passes the same two tensors to every layer, and again in the backward pass.
    """
    if tensor.device.type == "cpu" or tensor.is_inference():
        return _frozen(tensor.tolist())
    return _numbers_kept(tensor)


def _numbers_kept(tensor: Tensor) -> Numbers:
    """The numbers of a tensor, read once for as long as it lives and is not written to.

    Only writes that torch counts are noticed: not those through ``.data``, nor those by code that
    shares the memory, such as NumPy or DLPack.
    """
    if tensor not in _kept or _kept[tensor][0] != tensor._version:
        _kept[tensor] = (tensor._version, _frozen(tensor.tolist()))
    return _kept[tensor][1]


def _frozen(numbers: list[Any]) -> Numbers:
    return tuple(tuple(row) if isinstance(row, list) else row for row in numbers)
