"""Operators that other projects compile, called in place: none of their code is in this one.

A peer is a folder with an importable module, and the name of the convention by which to call it:

=============  =================================  ===========================================
name           module in the folder               what it is
=============  =================================  ===========================================
official       MultiScaleDeformableAttention      the CUDA extension of Deformable DETR
flash          ext                                FlashDeformAttn, in the CUDA extension DCNv4
msda-triton    kernels                            the Triton kernels of msda-triton
=============  =================================  ===========================================
"""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .contenders import LOCATIONS, Contender, Shapes
from .op_cases import Inputs, OpShape


@dataclass(frozen=True)
class _Convention:
    module: str
    forward: str
    backward: str
    dtypes: tuple[torch.dtype, ...]
    wrap: Callable[[str, Callable[..., Tensor], Callable[..., Any]], Contender]


def load_peer(argument: str) -> Contender:
    """The contender that ``NAME=FOLDER`` describes.

    Raises:
        ValueError: If there is no such convention, or no such module in the folder.
    """
    name, separator, folder = argument.partition("=")
    if not separator or name not in _CONVENTIONS:
        raise ValueError(
            f'--peer is "{argument}": expected NAME=FOLDER with a name of '
            f"{', '.join(_CONVENTIONS)}, and the folder that holds its module."
        )
    convention = _CONVENTIONS[name]
    module = _import_from(Path(folder), convention.module)
    for function in (convention.forward, convention.backward):
        if not hasattr(module, function):
            raise ValueError(
                f"{convention.module} in {folder} has no function {function}: "
                f'it is not what "{name}" names.'
            )
    return convention.wrap(
        name, getattr(module, convention.forward), getattr(module, convention.backward)
    )


def supported(argument: str, dtype: torch.dtype) -> bool:
    """Whether the peer ``NAME=FOLDER`` calculates in this dtype."""
    return dtype in _CONVENTIONS[argument.partition("=")[0]].dtypes


def _import_from(folder: Path, name: str) -> ModuleType:
    spec = PathFinder.find_spec(name, [str(folder)])
    if spec is None or spec.loader is None:
        python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
        raise ValueError(
            f"{folder} has no module {name} for {python}: name the folder that holds its file."
        )
    module = module_from_spec(spec)
    try:
        with _first_on_path(folder):
            spec.loader.exec_module(module)
    except (ImportError, OSError) as error:
        raise ValueError(
            f"{name} in {folder} cannot be imported ({str(error).splitlines()[0]}): "
            f"it must be built for torch {torch.__version__}."
        ) from error
    return module


@contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


class _Differentiable(torch.autograd.Function):
    """A pair of functions without autograd, given one."""

    @staticmethod
    def forward(ctx: Any, forward: Any, backward: Any, *tensors: Tensor) -> Tensor:
        ctx.backward = backward
        ctx.save_for_backward(*tensors)
        return forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> Any:
        return None, None, *ctx.backward(grad_out.contiguous(), *ctx.saved_tensors)


@functools.lru_cache(maxsize=8)
def _geometry(levels: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Heights and widths, and the first token of each level, on the device."""
    shapes = torch.tensor(levels, device=device)
    sizes = shapes.prod(1)
    return shapes, sizes.cumsum(0) - sizes


def _official(name: str, forward: Callable[..., Tensor], backward: Callable[..., Any]) -> Contender:
    def function(levels: Shapes, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        geometry = _geometry(tuple(levels), value.device)
        # Images per launch, which must divide their number.
        step = max(n for n in range(1, 65) if value.shape[0] % n == 0)

        def run(*tensors: Tensor) -> Tensor:
            return forward(tensors[0], *geometry, *tensors[1:], step)

        def back(grad_out: Tensor, *tensors: Tensor) -> Any:
            return backward(tensors[0], *geometry, *tensors[1:], grad_out, step)

        return _Differentiable.apply(run, back, value, locations, weights)

    return Contender(name, LOCATIONS, function)


def _msda_triton(
    name: str, forward: Callable[..., Tensor], backward: Callable[..., Any]
) -> Contender:
    def function(levels: Shapes, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        shapes, _ = _geometry(tuple(levels), value.device)

        def run(*tensors: Tensor) -> Tensor:
            return forward(tensors[0], shapes, *tensors[1:], "zeros", False).flatten(2)

        def back(grad_out: Tensor, *tensors: Tensor) -> Any:
            by_head = torch.unflatten(grad_out, -1, value.shape[2:])
            return backward(by_head, tensors[0], shapes, *tensors[1:], "zeros", False)

        return _Differentiable.apply(run, back, value, locations, weights)

    return Contender(name, LOCATIONS, function)


# Threads of a block are queries x heads x groups of channels. The published code derives the image
# of a whole block from its first query, so a block must not straddle two images: queries are
# padded, before the clock starts, to a multiple of the most that one block takes.
_FLASH_QUERIES = 16
_FLASH_THREADS_FORWARD, _FLASH_THREADS_BACKWARD = 512, 256
_FLASH_CHANNELS_FORWARD = 8


def _flash(name: str, forward: Callable[..., Tensor], backward: Callable[..., Any]) -> Contender:
    def function(levels: Shapes, value: Tensor, joined: Tensor) -> Tensor:
        geometry = _geometry(tuple(levels), value.device)
        num_images, _, num_heads, num_channels = value.shape
        num_points = joined.shape[-1] // (3 * len(levels))

        def rest(channels: int, most_threads: int) -> tuple[int, int, int, int]:
            per_query = num_heads * num_channels // channels
            queries = max(
                n
                for n in range(1, _FLASH_QUERIES + 1)
                if _FLASH_QUERIES % n == 0 and (n == 1 or n * per_query <= most_threads)
            )
            return num_images, num_points, channels, queries * per_query

        def run(value: Tensor, joined: Tensor) -> Tensor:
            last = rest(_FLASH_CHANNELS_FORWARD, _FLASH_THREADS_FORWARD)
            return forward(value, *geometry, joined, *last)

        def back(grad_out: Tensor, value: Tensor, joined: Tensor) -> Any:
            last = rest(2 if num_channels >= 64 else 1, _FLASH_THREADS_BACKWARD)
            return backward(value, *geometry, joined, grad_out, *last)

        return _Differentiable.apply(run, back, value, joined)

    return Contender(name, ("value", "joined"), function, prepare=_join, rounds_locations=True)


def _join(inputs: Inputs, shape: OpShape) -> Inputs:
    """Locations and logits of a head side by side, in the dtype of value; no softmax before it."""
    value = inputs["value"]
    parts = (inputs["sampling_locations"].flatten(3), inputs["attention_logits"])
    joined = torch.cat([part.to(value.dtype) for part in parts], -1)
    missing = -shape.queries % _FLASH_QUERIES
    return {
        "value": value,
        "joined": functional.pad(joined, (0, 0, 0, 0, 0, missing)),
        "grad_out": functional.pad(inputs["grad_out"], (0, 0, 0, missing)),
    }


_HALF_AND_SINGLE = (torch.float16, torch.float32)
_CONVENTIONS = {
    "official": _Convention(
        "MultiScaleDeformableAttention",
        "ms_deform_attn_forward",
        "ms_deform_attn_backward",
        (torch.float32,),
        _official,
    ),
    # Its backward in bfloat16 asks for memory of one type as another, and throws.
    "flash": _Convention(
        "ext",
        "flash_deform_attn_forward",
        "flash_deform_attn_backward",
        _HALF_AND_SINGLE,
        _flash,
    ),
    # In half precision it would take locations in half precision too.
    "msda-triton": _Convention(
        "kernels",
        "triton_multi_scale_deformable_attention_fwd",
        "triton_multi_scale_deformable_attention_bwd",
        (torch.float32,),
        _msda_triton,
    ),
}
