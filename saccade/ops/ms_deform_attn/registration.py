# ruff: noqa: ARG001 (PyTorch passes all arguments to what is registered with it)
"""What PyTorch is told about the operator: kernels, shapes without data, gradients.

torch.library.custom_op would do the same in fewer lines, but import torch._dynamo, which takes
seconds, at the first call. In the signatures, ``sides`` are h, w of the first level, h, w of the
next and so on; ``backend`` is the name of one that was chosen, not "auto". Gradients of references
are empty unless they are wanted: an encoder's grid of references has none.
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


def _kernels(backend: str) -> Any:
    """The functions of a backend, imported here because compilers take long to import."""
    if backend == "cpu":
        from . import cpu

        return cpu
    from . import triton_backward, triton_forward

    return SimpleNamespace(
        forward=triton_forward.forward,
        fused_forward=triton_forward.fused_forward,
        backward=triton_backward.backward,
        fused_backward=triton_backward.fused_backward,
    )


def _pairs(sides: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(sides[::2], sides[1::2], strict=True))


def _forward(
    value: Tensor, sides: Sequence[int], locations: Tensor, attention: Tensor, backend: str
) -> Tensor:
    return _kernels(backend).forward(value, _pairs(sides), locations, attention)


def _backward(
    grad_out: Tensor,
    value: Tensor,
    sides: Sequence[int],
    locations: Tensor,
    attention: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return _kernels(backend).backward(grad_out, value, _pairs(sides), locations, attention)


def _fused_forward(
    value: Tensor,
    sides: Sequence[int],
    points: Sequence[int],
    references: Tensor,
    offsets: Tensor,
    logits: Tensor,
    box_scale: float,
    backend: str,
) -> Tensor:
    return _kernels(backend).fused_forward(
        value, _pairs(sides), list(points), references, offsets, logits, box_scale
    )


def _fused_backward(
    grad_out: Tensor,
    value: Tensor,
    sides: Sequence[int],
    points: Sequence[int],
    references: Tensor,
    offsets: Tensor,
    logits: Tensor,
    box_scale: float,
    with_references: bool,
    backend: str,
) -> tuple[Tensor, ...]:
    grad_value, grad_references, *rest = _kernels(backend).fused_backward(
        grad_out,
        value,
        _pairs(sides),
        list(points),
        references,
        offsets,
        logits,
        box_scale,
        with_references,
    )
    if grad_references is None:
        grad_references = references.new_empty(0)
    return grad_value, grad_references, *rest


def _like(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in tensors)


def _shape_of_sums(value: Tensor, samples: Tensor) -> Tensor:
    num_images, num_queries, num_heads = samples.shape[:3]
    return value.new_empty(num_images, num_queries, num_heads * value.shape[3])


def _forward_shapes(value: Tensor, sides: Sequence[int], locations: Tensor, *rest: Any) -> Tensor:
    return _shape_of_sums(value, locations)


def _backward_shapes(
    grad_out: Tensor,
    value: Tensor,
    sides: Sequence[int],
    locations: Tensor,
    attention: Tensor,
    backend: str,
) -> tuple[Tensor, ...]:
    return _like(value, locations, attention)


def _fused_forward_shapes(
    value: Tensor,
    sides: Sequence[int],
    points: Sequence[int],
    references: Tensor,
    offsets: Tensor,
    *rest: Any,
) -> Tensor:
    return _shape_of_sums(value, offsets)


def _fused_backward_shapes(
    grad_out: Tensor,
    value: Tensor,
    sides: Sequence[int],
    points: Sequence[int],
    references: Tensor,
    offsets: Tensor,
    logits: Tensor,
    box_scale: float,
    with_references: bool,
    backend: str,
) -> tuple[Tensor, ...]:
    given = references if with_references else references.new_empty(0)
    return _like(value, given, offsets, logits)


def _save_inputs(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    value, ctx.sides, locations, attention, ctx.backend = inputs
    ctx.save_for_backward(value, locations, attention)


def _gradients(ctx, grad_out: Tensor):  # type: ignore[no-untyped-def]
    value, locations, attention = ctx.saved_tensors
    grads = torch.ops.saccade.ms_deform_attn_backward(
        grad_out, value, ctx.sides, locations, attention, ctx.backend
    )
    return grads[0], None, grads[1], grads[2], None


def _save_fused_inputs(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    value, ctx.sides, ctx.points, references, offsets, logits, ctx.box_scale, ctx.backend = inputs
    ctx.save_for_backward(value, references, offsets, logits)


def _fused_gradients(ctx, grad_out: Tensor):  # type: ignore[no-untyped-def]
    value, references, offsets, logits = ctx.saved_tensors
    grads = torch.ops.saccade.ms_deform_attn_fused_backward(
        grad_out, value, ctx.sides, ctx.points, references, offsets, logits, ctx.box_scale,
        ctx.needs_input_grad[3], ctx.backend,
    )  # fmt: skip
    grad_references = grads[1] if ctx.needs_input_grad[3] else None
    return grads[0], None, None, grad_references, *grads[2:], None, None


def _refuse_second_gradients(ctx, *grads: Tensor):  # type: ignore[no-untyped-def]
    raise NotImplementedError(
        "ms_deform_attn was differentiated twice, which its kernels cannot; "
        "call it with backend='reference', which can."
    )


_PLAIN = "Tensor value, SymInt[] sides, Tensor locations, Tensor attention, str backend"
_FUSED = (
    "Tensor value, SymInt[] sides, int[] points, Tensor references, Tensor offsets, "
    "Tensor logits, float box_scale"
)
_LIBRARY: dict[str, tuple[str, Callable[..., Any], Callable[..., Any]]] = {
    "ms_deform_attn": (f"({_PLAIN}) -> Tensor", _forward, _forward_shapes),
    "ms_deform_attn_backward": (
        f"(Tensor grad_out, {_PLAIN}) -> (Tensor, Tensor, Tensor)",
        _backward,
        _backward_shapes,
    ),
    "ms_deform_attn_fused": (
        f"({_FUSED}, str backend) -> Tensor",
        _fused_forward,
        _fused_forward_shapes,
    ),
    "ms_deform_attn_fused_backward": (
        f"(Tensor grad_out, {_FUSED}, bool with_references, str backend)"
        " -> (Tensor, Tensor, Tensor, Tensor)",
        _fused_backward,
        _fused_backward_shapes,
    ),
}
for _name, (_signature, _kernel, _shapes) in _LIBRARY.items():
    torch.library.define(f"saccade::{_name}", _signature)
    torch.library.impl(f"saccade::{_name}", ("cpu", "cuda", "xpu"), _kernel)
    torch.library.register_fake(f"saccade::{_name}", _shapes)
    if _name.endswith("_backward"):
        torch.library.register_autograd(f"saccade::{_name}", _refuse_second_gradients)
torch.library.register_autograd("saccade::ms_deform_attn", _gradients, setup_context=_save_inputs)
torch.library.register_autograd(
    "saccade::ms_deform_attn_fused", _fused_gradients, setup_context=_save_fused_inputs
)
