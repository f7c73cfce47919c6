"""The calling conventions, on stand-ins written here: functions on the CPU in Python files."""

import sys
from pathlib import Path

import pytest
import torch

from saccade.bench.op_cases import OpCase, OpShape, build_inputs
from saccade.bench.peers import load_peer, supported
from saccade.bench.verify import Expected

SHAPE = OpShape(levels=((9, 7), (4, 3)), num_images=2, num_queries=21, num_heads=4, num_channels=16)

OURS = """
import torch
from saccade.ops import ms_deform_attn_reference

def reference(value, shapes, *rest):
    return ms_deform_attn_reference(value, [tuple(pair) for pair in shapes.tolist()], *rest)

def gradients(grad_out, value, shapes, *rest):
    leaves = [x.detach().requires_grad_() for x in (value, *rest)]
    with torch.enable_grad():
        out = reference(leaves[0], shapes, *leaves[1:])
    return torch.autograd.grad(out, leaves, grad_out)
"""

OFFICIAL = """
def ms_deform_attn_forward(value, shapes, starts, locations, weights, step):
    assert starts.tolist() == [0, 63]
    assert value.shape[0] % step == 0
    return reference(value, shapes, locations, weights)

def ms_deform_attn_backward(value, shapes, starts, locations, weights, grad_out, step):
    return gradients(grad_out, value, shapes, locations, weights)
"""

FLASH = """
def split(joined, shapes, points):
    size = (*joined.shape[:3], len(shapes), points)
    count = len(shapes) * points
    return joined[..., :2 * count].reshape(*size, 2), joined[..., 2 * count:], size

def check(value, joined, stride, threads):
    per_query = value.shape[2] * value.shape[3] // stride
    assert threads % per_query == 0
    assert joined.shape[1] % (threads // per_query) == 0, "a block straddles two images"

def flash_deform_attn_forward(value, shapes, starts, joined, step, points, stride, threads):
    check(value, joined, stride, threads)
    locations, logits, size = split(joined, shapes, points)
    return reference(value, shapes, locations, logits.softmax(-1).view(size))

def flash_deform_attn_backward(
    value, shapes, starts, joined, grad_out, step, points, stride, threads
):
    check(value, joined, stride, threads)
    assert grad_out.shape[1] == joined.shape[1]
    leaf = joined.detach().requires_grad_()
    with torch.enable_grad():
        locations, logits, size = split(leaf, shapes, points)
        weights = logits.softmax(-1).view(size)
    by_value, *by_rest = gradients(grad_out, value, shapes, locations, weights)
    return by_value, torch.autograd.grad((locations, weights), leaf, by_rest)[0]
"""

MSDA_TRITON = """
def triton_multi_scale_deformable_attention_fwd(value, shapes, points, weights, padding, corners):
    assert (padding, corners) == ("zeros", False)
    return reference(value, shapes, points, weights).unflatten(-1, value.shape[2:])

def triton_multi_scale_deformable_attention_bwd(
    grad_out, value, shapes, points, weights, padding, corners
):
    return gradients(grad_out.flatten(2), value, shapes, points, weights)
"""


def peer(tmp_path: Path, name: str, source: str):
    module = {
        "official": "MultiScaleDeformableAttention",
        "flash": "ext",
        "msda-triton": "kernels",
    }[name]
    # What the module needs may lie beside it.
    (tmp_path / "saccade_test_ours.py").write_text(OURS)
    text = f"import torch\nfrom saccade_test_ours import *\n{source}"
    (tmp_path / f"{module}.py").write_text(text)
    try:
        return load_peer(f"{name}={tmp_path}")
    finally:
        sys.modules.pop("saccade_test_ours", None)


@pytest.mark.parametrize(
    ("name", "source"), [("official", OFFICIAL), ("flash", FLASH), ("msda-triton", MSDA_TRITON)]
)
def test_a_peer_is_called_by_its_convention(name: str, source: str, tmp_path: Path) -> None:
    contender = peer(tmp_path, name, source)
    inputs = build_inputs(OpCase("small", SHAPE, "local"), torch.float32, torch.device("cpu"))
    found = Expected(SHAPE.levels, inputs).compare(contender, SHAPE, inputs)
    assert found.problem(backward=True) is None
    assert contender.name == name


def test_importing_a_peer_leaves_no_trace(tmp_path: Path) -> None:
    before = list(sys.path)
    peer(tmp_path, "official", OFFICIAL)
    assert sys.path == before
    assert "MultiScaleDeformableAttention" not in sys.modules


def test_a_folder_without_the_module_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no module MultiScaleDeformableAttention for Python"):
        load_peer(f"official={tmp_path}")


def test_a_module_without_the_functions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ext.py").write_text("something = 1\n")
    with pytest.raises(ValueError, match=r"ext in .* has no function flash_deform_attn_forward"):
        load_peer(f"flash={tmp_path}")


def test_a_module_that_cannot_be_imported_says_why(tmp_path: Path) -> None:
    (tmp_path / "ext.py").write_text("raise ImportError('undefined symbol: _ZN3c10')\n")
    with pytest.raises(ValueError, match=r"cannot be imported \(undefined symbol: _ZN3c10\)"):
        load_peer(f"flash={tmp_path}")


@pytest.mark.parametrize("argument", ["official", "fast=folder", "=folder"])
def test_only_known_conventions_are_taken(argument: str) -> None:
    with pytest.raises(ValueError, match="a name of official, flash, msda-triton"):
        load_peer(argument)


def test_dtypes_that_a_peer_gets_wrong_are_known() -> None:
    assert supported("flash=x", torch.float16)
    assert not supported("flash=x", torch.bfloat16)
    assert not supported("official=x", torch.float16)
