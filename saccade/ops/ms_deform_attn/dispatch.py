# ruff: noqa: ARG001 (PyTorch passes all arguments to what is registered with it)
"""The public operator: checks its arguments, chooses a backend, and tells PyTorch about it."""

import warnings
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .reference import ms_deform_attn_reference

Backend = Literal["auto", "reference", "cpu"]

_announced: set[str] = set()


def ms_deform_attn(
    value: Float[Tensor, "B S M D"],
    spatial_shapes: Sequence[tuple[int, int]] | Int[Tensor, "L 2"],
    sampling_locations: Float[Tensor, "B Q M L P 2"],
    attention_weights: Float[Tensor, "B Q M L P"],
    backend: Backend = "auto",
) -> Float[Tensor, "B Q M*D"]:
    """Multi-scale deformable attention: each head's weighted sum of a few sampled features.

    ``out[q, m] = sum over l, p of A[m, l, q, p] * value_l[m](phi_l(location[q, m, l, p]))``

    This is equation 3 of Deformable DETR between its two linear maps. ``value_l(.)`` is bilinear
    between token centres, which lie at ``(i + 0.5) / size``, and zero outside the map, as in
    ``grid_sample(align_corners=False)``. Where that has a kink, on a token centre, the location
    receives the slope towards the next token. A location that is not finite contributes nothing
    and receives no gradient.

    Calculates in float32 at least, float64 if any argument is; mixed dtypes are welcome, so keep
    locations in float32 when the rest is half precision.

    Args:
        value: Projected features of S tokens, levels in order, each row by row.
        spatial_shapes: (height, width) of each level in tokens. Pairs are better than a tensor:
            a tensor is read back from its device, which stalls GPUs and breaks compiled graphs.
        sampling_locations: (x, y) as a fraction of the padded map; values outside [0, 1] lie
            outside the map.
        attention_weights: ``A``, usually a softmax over (L, P) together.
        backend: ``"cpu"``: numba kernels, compiled at the first call and then cached on disk.
            ``"reference"``: plain indexing; any device, differentiable twice, slow.
            ``"auto"``: the fastest for the device.

    Returns:
        Sums of all heads side by side, in the dtype of ``value``.

    Raises:
        ValueError: If shapes, devices or dtypes do not fit together, or ``backend`` cannot
            serve them.

    >>> value = torch.arange(4.0).view(1, 4, 1, 1)  # one 2x2 map
    >>> centre = torch.full((1, 1, 1, 1, 1, 2), 0.5)
    >>> ms_deform_attn(value, [(2, 2)], centre, torch.ones(1, 1, 1, 1, 1)).item()
    1.5
    """
    pairs = spatial_shapes.tolist() if isinstance(spatial_shapes, Tensor) else spatial_shapes
    shapes = [(height, width) for height, width in pairs]
    _check(value, shapes, sampling_locations, attention_weights)
    if _choose(backend, value.device.type) == "reference":
        return ms_deform_attn_reference(value, shapes, sampling_locations, attention_weights)
    sides = [side for shape in shapes for side in shape]
    return torch.ops.saccade.ms_deform_attn(value, sides, sampling_locations, attention_weights)


def _check(
    value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, attention: Tensor
) -> None:
    if value.ndim != 4:
        raise ValueError(
            f"value has shape {_show(value)} but 4 dimensions [B, S, M, D] are expected; "
            "split its channels into heads, value.unflatten(-1, (M, D))."
        )
    num_images, num_tokens, num_heads, _ = value.shape
    terms = " + ".join(f"{height}x{width}" for height, width in shapes)
    expected_tokens = sum(height * width for height, width in shapes)
    if num_tokens != expected_tokens:
        raise ValueError(
            f"value has {num_tokens} tokens but spatial_shapes describe {terms} = "
            f"{expected_tokens}; pass (height, width) of the maps you flattened, in that order."
        )
    if locations.ndim != 6 or locations.shape[-1] != 2:
        raise ValueError(
            f"sampling_locations has shape {_show(locations)} but [B, Q, M, L, P, 2] is expected; "
            "the last dimension is (x, y)."
        )
    expected = (num_images, locations.shape[1], num_heads, len(shapes), locations.shape[4], 2)
    if locations.shape != expected:
        raise ValueError(
            f"sampling_locations has shape {_show(locations)} but [B, Q, M, L, P, 2] = "
            f"{list(expected)} is expected; B and M are those of value {_show(value)}, "
            f"L = {len(shapes)} counts spatial_shapes."
        )
    if attention.shape != expected[:-1]:
        raise ValueError(
            f"attention_weights has shape {_show(attention)} but [B, Q, M, L, P] = "
            f"{list(expected[:-1])} is expected, one weight for each sampling location; "
            "unflatten the softmax over L*P into (L, P)."
        )
    for name, tensor in (("sampling_locations", locations), ("attention_weights", attention)):
        if tensor.device != value.device:
            raise ValueError(
                f"{name} is on {tensor.device} but value is on {value.device}; "
                "move them to one device."
            )
    for name, tensor in (
        ("value", value),
        ("sampling_locations", locations),
        ("attention_weights", attention),
    ):
        if not tensor.is_floating_point():
            raise ValueError(
                f"{name} is {tensor.dtype} but floating-point numbers are expected; "
                "convert it, for example with .float()."
            )


def _show(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _choose(backend: str, device: str) -> str:
    if backend not in ("auto", "reference", "cpu"):
        raise ValueError(
            f"backend is {backend!r} but one of 'auto', 'reference', 'cpu' is expected; "
            "'auto' takes the fastest for the device."
        )
    if backend == "reference" or device in ("cpu", "meta"):
        return "reference" if backend == "reference" else "cpu"
    if backend == "cpu":
        raise ValueError(
            f"backend 'cpu' cannot read tensors on {device}; move them to the CPU or "
            "pass backend='auto'."
        )
    if device not in _announced:
        _announced.add(device)
        warnings.warn(
            f"ms_deform_attn has no kernel for {device} and uses the slow backend 'reference' "
            "there; pass backend='reference' to silence this.",
            stacklevel=3,
        )
    return "reference"


def _forward(value: Tensor, sides: Sequence[int], locations: Tensor, attention: Tensor) -> Tensor:
    # Here, so that importing saccade does not wait for numba.
    from .cpu import forward

    return forward(value, _pairs(sides), locations, attention)


def _backward(
    grad_out: Tensor, value: Tensor, sides: Sequence[int], locations: Tensor, attention: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    from .cpu import backward

    return backward(grad_out, value, _pairs(sides), locations, attention)


def _pairs(sides: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(sides[::2], sides[1::2], strict=True))


def _forward_shapes(
    value: Tensor, sides: Sequence[int], locations: Tensor, attention: Tensor
) -> Tensor:
    num_images, num_queries, num_heads = attention.shape[:3]
    return value.new_empty(num_images, num_queries, num_heads * value.shape[3])


def _backward_shapes(
    grad_out: Tensor, value: Tensor, sides: Sequence[int], locations: Tensor, attention: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        value.new_empty(value.shape),
        locations.new_empty(locations.shape),
        attention.new_empty(attention.shape),
    )


def _save_inputs(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    value, ctx.sides, locations, attention = inputs
    ctx.save_for_backward(value, locations, attention)


def _gradients(ctx, grad_out: Tensor):  # type: ignore[no-untyped-def]
    value, locations, attention = ctx.saved_tensors
    grads = torch.ops.saccade.ms_deform_attn_backward(
        grad_out, value, ctx.sides, locations, attention
    )
    return grads[0], None, grads[1], grads[2]


def _refuse_second_gradients(ctx, *grads: Tensor):  # type: ignore[no-untyped-def]
    raise NotImplementedError(
        "ms_deform_attn was differentiated twice, which its kernels cannot; "
        "call it with backend='reference', which can."
    )


# torch.library.custom_op would do the same in fewer lines, but import torch._dynamo, which takes
# seconds, at the first call. The sides are h, w of the first level, h, w of the next and so on.
_INPUTS = "Tensor value, SymInt[] sides, Tensor locations, Tensor attention"
torch.library.define("saccade::ms_deform_attn", f"({_INPUTS}) -> Tensor")
torch.library.define(
    "saccade::ms_deform_attn_backward",
    f"(Tensor grad_out, {_INPUTS}) -> (Tensor, Tensor, Tensor)",
)
torch.library.impl("saccade::ms_deform_attn", "cpu", _forward)
torch.library.impl("saccade::ms_deform_attn_backward", "cpu", _backward)
torch.library.register_fake("saccade::ms_deform_attn", _forward_shapes)
torch.library.register_fake("saccade::ms_deform_attn_backward", _backward_shapes)
torch.library.register_autograd("saccade::ms_deform_attn", _gradients, setup_context=_save_inputs)
torch.library.register_autograd("saccade::ms_deform_attn_backward", _refuse_second_gradients)
