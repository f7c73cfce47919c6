"""The two functions of mmcv's compiled extension that are this operator.

mmcv, and with it BEVFormer and mmdetection, names arguments differently from the official extension
and has gradients written into tensors that it passes along.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from . import official_extension


def ms_deform_attn_forward(
    value: Float[Tensor, "B S M D"],
    value_spatial_shapes: Int[Tensor, "L 2"],
    value_level_start_index: Int[Tensor, " L"],
    sampling_locations: Float[Tensor, "B Q M L P 2"],
    attention_weights: Float[Tensor, "B Q M L P"],
    im2col_step: int,
) -> Float[Tensor, "B Q M*D"]:
    """``ms_deform_attn_forward`` of the official extension with mmcv's names of the arguments."""
    return official_extension.ms_deform_attn_forward(
        value,
        value_spatial_shapes,
        value_level_start_index,
        sampling_locations,
        attention_weights,
        im2col_step,
    )


def ms_deform_attn_backward(
    value: Float[Tensor, "B S M D"],
    value_spatial_shapes: Int[Tensor, "L 2"],
    value_level_start_index: Int[Tensor, " L"],
    sampling_locations: Float[Tensor, "B Q M L P 2"],
    attention_weights: Float[Tensor, "B Q M L P"],
    grad_output: Float[Tensor, "B Q M*D"],
    grad_value: Float[Tensor, "B S M D"],
    grad_sampling_loc: Float[Tensor, "B Q M L P 2"],
    grad_attn_weight: Float[Tensor, "B Q M L P"],
    im2col_step: int,
) -> None:
    """Write the gradients into ``grad_value``, ``grad_sampling_loc`` and ``grad_attn_weight``."""
    grads = official_extension.ms_deform_attn_backward(
        value,
        value_spatial_shapes,
        value_level_start_index,
        sampling_locations,
        attention_weights,
        grad_output,
        im2col_step,
    )
    for given, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        given.copy_(grad)


class StandIn(ModuleType):
    """``mmcv._ext`` where mmcv came without its extension: these two functions and no others."""

    def __init__(self) -> None:
        super().__init__("mmcv._ext")
        self.__spec__ = __spec__
        self.ms_deform_attn_forward = ms_deform_attn_forward
        self.ms_deform_attn_backward = ms_deform_attn_backward

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Any other function, so that ``mmcv.ops`` can be imported, which looks for all of them."""
        if name.startswith("_"):
            raise AttributeError(f"module 'mmcv._ext' has no attribute {name!r}")

        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError(
                f"mmcv's operator {name!r} was called, but mmcv came without its compiled "
                "extension and saccade serves ms_deform_attn only; install mmcv with its extension."
            )

        return refuse
