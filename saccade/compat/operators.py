"""The forms in which transformers writes the operator, and what replaces each.

- A module ``MultiScaleDeformableAttention`` whose forward is the operator (Deformable DETR,
  RT-DETR, Grounding DINO and most others).
- A function that an attention module keeps as an attribute (D-FINE, DEIMv2).
- A function of the file, called by an attention module's forward (RT-DETRv2, Mask2Former,
  OneFormer).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from .sampling import sample

_CORE = "ms_deformable_attn_core"
"""The attribute in which D-FINE and DEIMv2 keep the function."""


class Accelerated(nn.Module):
    """Mixed into the class of a module whose forward was exchanged.

    A class and not a forward of the instance, because DataParallel copies the attributes of an
    instance, and a bound method would compute with the weights of the first device on all of them.
    """

    original: type[nn.Module]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles stay accelerated, although the class has no name to be found by."""
        return _blank, (self.original,), *super().__reduce_ex__(protocol)[2:]


@dataclass(frozen=True)
class Carrier:
    """A module that carries the operator."""

    module: nn.Module
    attribute: str
    """What is exchanged: ``"__class__"``, or the attribute that holds the function."""
    replacement: Any
    obstacle: str | None = None
    """Why it cannot be exchanged."""

    @property
    def current(self) -> Any:
        """What is in place of it now."""
        return getattr(self.module, self.attribute)


def find_carrier(module: nn.Module) -> Carrier | None:
    """How to exchange the operator of one module; None if it carries none, or carries ours."""
    function = vars(module).get(_CORE)
    if isinstance(function, FunctionType) and function.__name__ in FUNCTIONS:
        return Carrier(module, _CORE, FUNCTIONS[function.__name__], _obstacle(module))
    kind: Any = type(module)
    if isinstance(module, Accelerated) or not _calls_operator(kind):
        return None
    obstacle = _obstacle(module)
    if "forward" in vars(module):
        obstacle = "a hook or a hub kernel has set the forward; accelerate the model before that"
    return Carrier(module, "__class__", _accelerated(kind), obstacle)


def is_accelerated(module: nn.Module) -> bool:
    """Whether a module's operator was exchanged before."""
    return isinstance(module, Accelerated) or vars(module).get(_CORE) is sample_ragged


def _obstacle(module: nn.Module) -> str | None:
    method = getattr(module, "decoder_method", getattr(module, "method", "default"))
    if method == "default":
        return None
    return f"the method is {method!r}, another operator; only 'default' is served"


def _calls_operator(kind: type[nn.Module]) -> bool:
    return _is_operator(kind) or bool(_functions_called(kind))


def _is_operator(kind: type[nn.Module]) -> bool:
    # mmcv has a module of this name too, which is a whole attention layer.
    return kind.__name__ == "MultiScaleDeformableAttention" and (
        list(signature(kind.forward).parameters) == list(signature(_forward).parameters)
    )


def _functions_called(kind: type[nn.Module]) -> list[str]:
    code = getattr(kind.forward, "__code__", None)
    return [name for name in FUNCTIONS if code is not None and name in code.co_names]


@functools.cache
def _accelerated(kind: Any) -> type[nn.Module]:
    forward = _forward if _is_operator(kind) else _with_our_functions(kind.forward)
    members = {"original": kind, "forward": forward, "__module__": kind.__module__}
    return type(f"Accelerated{kind.__name__}", (Accelerated, kind), members)


def _blank(kind: Any) -> nn.Module:
    accelerated = _accelerated(kind)
    return accelerated.__new__(accelerated)


def _with_our_functions(forward: Any) -> FunctionType:
    """The same code, which finds our functions where it found those of its own file."""
    names = {**forward.__globals__, **FUNCTIONS}
    # By its name torch.compile, up to some version, finds the file and expects its functions there.
    del names["__name__"]
    copy = FunctionType(
        forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__
    )
    copy.__kwdefaults__ = forward.__kwdefaults__
    copy.__module__ = forward.__module__
    return copy


def _forward(
    self: nn.Module,  # noqa: ARG001
    value: Tensor,
    value_spatial_shapes: Tensor,  # noqa: ARG001
    value_spatial_shapes_list: Sequence[tuple[int, int]],
    level_start_index: Tensor,  # noqa: ARG001
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,  # noqa: ARG001
) -> Tensor:
    return sample(value, value_spatial_shapes_list, sampling_locations, attention_weights)


def sample_ragged(
    value: Tensor,
    value_spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    num_points_list: Sequence[int],
    method: str = "default",
) -> Tensor:
    """The operator with the points of all levels in one dimension, as many in each as it likes."""
    if method != "default":
        raise ValueError(
            f"method is {method!r} but an accelerated model can only 'default', which interpolates "
            "between tokens; undo the acceleration to use another."
        )
    points = list(num_points_list)
    if len(set(points)) == 1:
        locations = torch.unflatten(sampling_locations, 3, (len(points), -1))
        attention = torch.unflatten(attention_weights, 3, (len(points), -1))
        return sample(value, value_spatial_shapes, locations, attention)
    levels = zip(
        torch.split(value, [height * width for height, width in value_spatial_shapes], 1),
        [[shape] for shape in value_spatial_shapes],
        torch.split(sampling_locations.unsqueeze(3), points, 4),
        torch.split(attention_weights.unsqueeze(3), points, 4),
        strict=True,
    )
    return torch.stack([sample(*level) for level in levels]).sum(0)


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "multi_scale_deformable_attention": sample,
    "multi_scale_deformable_attention_v2": sample_ragged,
}
"""What replaces each function of transformers, by its name there."""
