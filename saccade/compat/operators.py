"""The forms in which transformers writes the operator, and what replaces each.

- A module ``MultiScaleDeformableAttention`` whose forward is the operator (Deformable DETR,
  RT-DETR, Grounding DINO and most others).
- A function that an attention module keeps as an attribute (D-FINE, DEIMv2).
- A function of the file, called by an attention module's forward (RT-DETRv2, Mask2Former,
  OneFormer).
"""

import dis
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .sampling import sample

_CORE = "ms_deformable_attn_core"
"""The attribute in which D-FINE and DEIMv2 keep the function."""
_RAGGED = "multi_scale_deformable_attention_v2"
_OUTSIDE = -1.0
"""A location that is outside of every map."""


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

    def exchange(self) -> None:
        """Put ours in place; ``bring_back`` undoes it."""
        setattr(self.module, self.attribute, self.replacement)


def find_carrier(module: nn.Module) -> Carrier | None:
    """How to exchange the operator of one module; None if it carries none, or carries ours."""
    function = vars(module).get(_CORE)
    if function is not None and _is_function(_RAGGED, function):
        return Carrier(module, _CORE, _RaggedCore(function), _obstacle(module))
    kind: Any = type(module)
    if isinstance(module, Accelerated) or not _calls_operator(kind):
        return None
    obstacle = _obstacle(module)
    if "forward" in vars(module):
        obstacle = "a hook or a hub kernel has set the forward; accelerate the model before that"
    return Carrier(module, "__class__", _accelerated(kind), obstacle)


def is_accelerated(module: nn.Module) -> bool:
    """Whether a module's operator was exchanged before."""
    return isinstance(module, Accelerated) or isinstance(vars(module).get(_CORE), _RaggedCore)


def bring_back(module: nn.Module) -> bool:
    """Undo the exchange in one module; False if ours is not in place there."""
    function = vars(module).get(_CORE)
    if isinstance(function, _RaggedCore):
        setattr(module, _CORE, function.original)
        return True
    if not isinstance(module, Accelerated):
        return False
    kind: Any = module.original
    # Else something has derived a class from ours, as FSDP does.
    is_ours = type(module) is _accelerated(kind)
    if is_ours:
        module.__class__ = kind
    return is_ours


def _obstacle(module: nn.Module) -> str | None:
    method = getattr(module, "decoder_method", getattr(module, "method", "default"))
    if method == "default":
        return None
    return f"the method is {method!r}, another operator; only 'default' is served"


def _calls_operator(kind: type[nn.Module]) -> bool:
    return _is_operator(kind) or bool(_functions_called(kind.forward))


def _is_operator(kind: type[nn.Module]) -> bool:
    # mmcv has a module of this name too, which is a whole attention layer.
    return kind.__name__ == "MultiScaleDeformableAttention" and (
        list(signature(kind.forward).parameters) == list(signature(_forward).parameters)
    )


def _is_function(name: str, function: object) -> bool:
    """Whether this is the function of transformers that has this name."""
    return (
        isinstance(function, FunctionType)
        and function.__name__ == name
        and list(signature(function).parameters) == list(signature(FUNCTIONS[name]).parameters)
    )


def _functions_called(forward: Any) -> list[str]:
    """Which functions of transformers a forward names; attributes of the same name are others."""
    if not isinstance(forward, FunctionType):
        return []
    found = [name for name in FUNCTIONS if _is_function(name, forward.__globals__.get(name))]
    # Read only if there is a chance: a model has many modules.
    steps = list(dis.get_instructions(forward)) if found else []
    loaded = {step.argval for step in steps if step.opname == "LOAD_GLOBAL"}
    return [name for name in found if name in loaded]


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
    ours = {name: FUNCTIONS[name] for name in _functions_called(forward)}
    names = {**forward.__globals__, **ours}
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
    locations = _by_level(sampling_locations, num_points_list, missing=_OUTSIDE)
    attention = _by_level(attention_weights, num_points_list, missing=0.0)
    return sample(value, value_spatial_shapes, locations, attention)


def _by_level(samples: Tensor, points: Sequence[int], missing: float) -> Tensor:
    """[B, Q, M, K, ...] as [B, Q, M, L, P, ...], every level filled up to the most points of any.

    So that one call serves all levels, and their sums are never rounded one by one.
    """
    if len(set(points)) == 1:
        return torch.unflatten(samples, 3, (len(points), -1))
    inner = (0, 0) * (samples.ndim - 4)
    parts = [
        functional.pad(part, (*inner, 0, max(points) - part.shape[3]), value=missing)
        for part in torch.split(samples, list(points), 3)
    ]
    return torch.stack(parts, 3)


@dataclass(frozen=True)
class _RaggedCore:
    """``sample_ragged`` where D-FINE and DEIMv2 keep their function, which it remembers."""

    original: Callable[..., Tensor]

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return sample_ragged(*args, **kwargs)


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "multi_scale_deformable_attention": sample,
    _RAGGED: sample_ragged,
}
"""What replaces each function of transformers, by its name there."""
