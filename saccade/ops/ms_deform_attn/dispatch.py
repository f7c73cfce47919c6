"""The public operator: checks its arguments and chooses a backend."""

import importlib
import os
import warnings
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import forward_ad

from . import registration as registration  # defines torch.ops.saccade
from .checks import (
    check_fused,
    check_gradient,
    check_plain,
    check_tensors,
    level_points,
    level_shapes,
)
from .reference import ms_deform_attn_fused_reference, ms_deform_attn_reference

Backend = Literal["auto", "reference", "cpu", "triton"]

_announced: set[str] = set()
_import_errors: dict[str, str | None] = {}


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
    ``grid_sample(align_corners=False)``. In pixels, ``location * size - 0.5``:

    - a sample reaches the map from -1 (inclusive) to ``size`` (exclusive); on -1, and on every
      token centre, where the slope jumps, the location receives the slope towards the next token;
    - a location that is not finite contributes nothing and receives no gradient;
    - a value that no sample touches changes nothing, even if it is NaN;
    - empty batches, queries, heads, levels and points are sums of nothing: zeros.

    Calculates in float32 at least, float64 if any argument is; mixed dtypes are welcome, so keep
    locations in float32 when the rest is half precision. Under ``torch.autocast`` the value is
    cast, locations never are.

    Args:
        value: Projected features of S tokens, levels in order, each row by row. Tokens of the
            padding must be zero.
        spatial_shapes: (height, width) of each level in tokens. Pairs are better than a tensor:
            a tensor is read back from its device, which stalls GPUs and breaks compiled graphs.
        sampling_locations: (x, y) as a fraction of the padded map, of which (0, 0) and (1, 1) are
            the corners.
        attention_weights: ``A``, usually a softmax over (L, P) together.
        backend: ``"cpu"``: numba kernels, compiled at the first call and then cached on disk;
            their gradients are bitwise the same for every number of threads.
            ``"triton"``: GPU kernels; the gradient of the value is bitwise repeatable if
            ``torch.are_deterministic_algorithms_enabled()``.
            ``"reference"``: plain indexing; any device, differentiable twice, slow.
            ``"auto"``: the fastest for the device; a slow one announces itself once.

    Returns:
        Sums of all heads side by side, in the dtype of ``value``.

    Raises:
        ValueError: If shapes, devices or dtypes do not fit together, or ``backend`` cannot
            serve them.
        NotImplementedError: If differentiated twice by a backend other than ``"reference"``.

    >>> value = torch.arange(4.0).view(1, 4, 1, 1)  # one 2x2 map
    >>> centre = torch.full((1, 1, 1, 1, 1, 2), 0.5)
    >>> ms_deform_attn(value, [(2, 2)], centre, torch.ones(1, 1, 1, 1, 1)).item()
    1.5
    """
    shapes = level_shapes(spatial_shapes)
    check_tensors(
        value=value, sampling_locations=sampling_locations, attention_weights=attention_weights
    )
    check_plain(value, shapes, sampling_locations, attention_weights)
    (value,) = _autocast(value)
    chosen = _choose(backend, value.device.type)
    if chosen == "reference":
        return ms_deform_attn_reference(value, shapes, sampling_locations, attention_weights)
    _refuse_forward_mode(value, sampling_locations, attention_weights)
    return torch.ops.saccade.ms_deform_attn(
        value, _sides(shapes), sampling_locations, attention_weights, chosen
    )


def ms_deform_attn_fused(
    value: Float[Tensor, "B S M D"],
    spatial_shapes: Sequence[tuple[int, int]] | Int[Tensor, "L 2"],
    reference_points: Float[Tensor, "B Q L R"],
    sampling_offsets: Float[Tensor, "B Q M K 2"],
    attention_logits: Float[Tensor, "B Q M K"],
    points_per_level: Sequence[int] | None = None,
    box_scale: float = 0.5,
    backend: Backend = "auto",
) -> Float[Tensor, "B Q M*D"]:
    """``ms_deform_attn`` from what the linear maps of the queries give.

    Neither the sampling locations nor the softmax of the logits reaches memory, and neither is
    ever rounded to half precision, whatever dtype the arguments have. Under ``torch.autocast`` the
    value and the logits are cast, references and offsets never are. Around a reference point
    ``p_q = (x, y)`` level l is sampled at ``p_q + Δp / (width_l, height_l)``; around a box
    ``(cx, cy, w, h)``, as in iterative refinement, at ``(cx, cy) + Δp / P_l * (w, h) * box_scale``
    (Deformable DETR, section 4.1 and appendix A.4).

    Args:
        value: As in ``ms_deform_attn``.
        spatial_shapes: As in ``ms_deform_attn``.
        reference_points: ``p_q`` as a fraction of the padded map, two or four numbers for each
            level; an L of 1 serves all levels.
        sampling_offsets: ``Δp``, all points of the first level, then of the next.
        attention_logits: Before their softmax, which is over all K samples of a head.
        points_per_level: ``P_l``, which sum to K; may differ and be 0. By default K / L.
        box_scale: The share of a box's side that P_l points span.
        backend: As in ``ms_deform_attn``.

    Returns:
        Sums of all heads side by side, in the dtype of ``value``.

    Raises:
        ValueError: As ``ms_deform_attn``.
        NotImplementedError: As ``ms_deform_attn``.

    >>> value = torch.arange(4.0).view(1, 4, 1, 1)  # one 2x2 map
    >>> corner = torch.full((1, 1, 1, 2), 0.25)
    >>> offsets = torch.tensor([[0.0, 0.0], [1.0, 0.0]]).view(1, 1, 1, 2, 2)
    >>> ms_deform_attn_fused(value, [(2, 2)], corner, offsets, torch.zeros(1, 1, 1, 2)).item()
    0.5
    """
    shapes = level_shapes(spatial_shapes)
    check_tensors(
        value=value,
        reference_points=reference_points,
        sampling_offsets=sampling_offsets,
        attention_logits=attention_logits,
    )
    points = level_points(points_per_level, sampling_offsets, len(shapes))
    check_fused(
        value, shapes, reference_points, sampling_offsets, attention_logits, points, box_scale
    )
    value, attention_logits = _autocast(value, attention_logits)
    chosen = _choose(backend, value.device.type)
    if chosen == "reference":
        return ms_deform_attn_fused_reference(
            value, shapes, reference_points, sampling_offsets, attention_logits, points, box_scale
        )
    _refuse_forward_mode(value, reference_points, sampling_offsets, attention_logits)
    return torch.ops.saccade.ms_deform_attn_fused(
        value,
        _sides(shapes),
        points,
        reference_points.expand(-1, -1, len(shapes), -1),
        sampling_offsets,
        attention_logits,
        float(box_scale),
        chosen,
    )


def ms_deform_attn_gradients(
    grad_out: Float[Tensor, "B Q C"],
    value: Float[Tensor, "B S M D"],
    spatial_shapes: Sequence[tuple[int, int]] | Int[Tensor, "L 2"],
    sampling_locations: Float[Tensor, "B Q M L P 2"],
    attention_weights: Float[Tensor, "B Q M L P"],
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "B S M D"], Float[Tensor, "B Q M L P 2"], Float[Tensor, "B Q M L P"]]:
    """The backward of ``ms_deform_attn`` by itself, for those who write their own autograd.

    Args:
        grad_out: Gradient of the output, C = M*D.
        value: As given to ``ms_deform_attn``, and so are all that follow.
        spatial_shapes: As in ``ms_deform_attn``.
        sampling_locations: As in ``ms_deform_attn``.
        attention_weights: As in ``ms_deform_attn``.
        backend: As in ``ms_deform_attn``.

    Returns:
        Gradients of value, locations and weights, each in the dtype of what it belongs to.

    Raises:
        ValueError: As ``ms_deform_attn``.
        NotImplementedError: If these gradients are differentiated.
    """
    shapes = level_shapes(spatial_shapes)
    check_tensors(
        grad_out=grad_out,
        value=value,
        sampling_locations=sampling_locations,
        attention_weights=attention_weights,
    )
    check_plain(value, shapes, sampling_locations, attention_weights)
    check_gradient(grad_out, value, sampling_locations)
    tensors = (value, sampling_locations, attention_weights)
    chosen = _choose(backend, value.device.type)
    if chosen != "reference":
        return torch.ops.saccade.ms_deform_attn_backward(
            grad_out, value, _sides(shapes), sampling_locations, attention_weights, chosen
        )
    value, locations, weights = (x.detach().requires_grad_() for x in tensors)
    with torch.enable_grad():
        out = ms_deform_attn_reference(value, shapes, locations, weights)
    by_value, by_locations, by_weights = torch.autograd.grad(
        out, (value, locations, weights), grad_out, materialize_grads=True
    )
    return by_value, by_locations, by_weights


def _sides(shapes: list[tuple[int, int]]) -> list[int]:
    return [side for shape in shapes for side in shape]


def _autocast(*tensors: Tensor) -> list[Tensor]:
    """In the dtype of autocast where it is on, as torch does with the arguments of a matmul."""
    device = tensors[0].device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [x if x.dtype == torch.float64 else x.to(dtype) for x in tensors]


def _choose(backend: str, device: str) -> str:
    """The backend to use for tensors on a device of this type."""
    if backend not in ("auto", "reference", "cpu", "triton"):
        raise ValueError(
            f"backend is {backend!r} but one of 'auto', 'reference', 'cpu', 'triton' is expected; "
            "'auto' takes the fastest for the device."
        )
    if backend == "reference":
        return "reference"
    kernels = {"auto": "cpu" if device in ("cpu", "meta") else "triton"}.get(backend, backend)
    obstacle = _obstacle_to_cpu(device) if kernels == "cpu" else _obstacle_to_triton(device)
    if obstacle is None:
        return kernels
    if backend != "auto":
        raise ValueError(f"backend {backend!r} cannot be used: {obstacle}; pass backend='auto'.")
    if device not in _announced:
        _announced.add(device)
        warnings.warn(
            f"ms_deform_attn uses the slow backend 'reference' on {device}: {obstacle}; "
            "pass backend='reference' to silence this.",
            stacklevel=3,
        )
    return "reference"


def _refuse_forward_mode(*tensors: Tensor) -> None:
    """PyTorch itself would take the derivatives to be zero."""
    if torch.compiler.is_compiling():
        return
    for tensor in tensors:
        if forward_ad.unpack_dual(tensor).tangent is not None:  # type: ignore[no-untyped-call]
            raise NotImplementedError(
                "ms_deform_attn was differentiated in forward mode, which its kernels cannot; "
                "call it with backend='reference', which can."
            )


def _obstacle_to_cpu(device: str) -> str | None:
    """Why the numba kernels cannot run on such a device, or None."""
    if device not in ("cpu", "meta"):
        return f"it cannot read tensors on {device}"
    return _import_error("numba")


def _obstacle_to_triton(device: str) -> str | None:
    """Why the Triton kernels cannot run on such a device, or None."""
    interpreted = device == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    if device not in ("cuda", "xpu") and not interpreted:
        return f"there is no kernel for {device}"
    return _import_error("triton")


def _import_error(package: str) -> str | None:
    """Why a package cannot be imported, or None."""
    if torch.compiler.is_compiling():
        # Imports cannot be traced; where one fails, the first call of the graph says so.
        return None
    if package not in _import_errors:
        try:
            importlib.import_module(package)
            _import_errors[package] = None
        except ImportError as error:
            _import_errors[package] = f"the package {package} cannot be imported ({error})"
    return _import_errors[package]
