"""Which backend is chosen, what is said about it, and what the public functions take."""

import sys
import warnings

import pytest
import torch

from saccade.ops import ms_deform_attn, ms_deform_attn_gradients, ms_deform_attn_reference
from saccade.ops.ms_deform_attn import dispatch

from .forms import (
    call,
    case_without_levels,
    every_backend,
    every_form,
    random_case,
    results,
    tensors,
    upstream_of,
)


@pytest.fixture(autouse=True)
def nothing_said_or_imported_yet(monkeypatch):
    monkeypatch.setattr(dispatch, "_announced", set())
    monkeypatch.setattr(dispatch, "_import_errors", {})


@pytest.fixture
def importable(monkeypatch):
    """Every package is, whether it is installed or not."""
    monkeypatch.setattr(dispatch, "_import_error", lambda package: None)


def test_auto_takes_the_fastest_for_the_device(importable):
    assert dispatch._choose("auto", "cpu") == "cpu"
    assert dispatch._choose("auto", "meta") == "cpu"
    assert dispatch._choose("auto", "cuda") == "triton"


def test_a_device_without_kernels_is_said_once(importable):
    with pytest.warns(UserWarning, match="'reference' on mps: there is no kernel for mps"):
        assert dispatch._choose("auto", "mps") == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dispatch._choose("auto", "mps") == "reference"
        assert dispatch._choose("reference", "mps") == "reference"
    with pytest.raises(ValueError, match=r"^backend 'cpu' cannot .* tensors on cuda; pass"):
        dispatch._choose("cpu", "cuda")
    with pytest.raises(ValueError, match="'triton' cannot be used: there is no kernel for mps"):
        dispatch._choose("triton", "mps")


def test_a_gpu_without_triton_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.warns(UserWarning, match="'reference' on cuda: the package triton cannot be impo"):
        assert dispatch._choose("auto", "cuda") == "reference"
    assert dispatch._choose("auto", "cuda") == "reference"
    with pytest.raises(ValueError, match="'triton' cannot be used: the package triton cannot"):
        dispatch._choose("triton", "cuda")


@every_form
def test_numba_that_cannot_be_imported_is_said_once(form, monkeypatch, tmp_path):
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 1.0 or less')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    case = random_case(form)
    reason = r"the package numba cannot be imported \(Numba needs NumPy 1\.0 or less\)"
    with pytest.warns(UserWarning, match=f"the slow backend 'reference' on cpu: {reason}"):
        out = call(case)
    assert torch.equal(out, call(case, "reference"))
    assert torch.equal(out, call(case))
    with pytest.raises(ValueError, match=f"^backend 'cpu' cannot be used: {reason}; pass"):
        call(case, "cpu")


def test_shapes_may_be_pairs_or_a_tensor():
    case = random_case("plain")
    tensor = case._replace(spatial_shapes=torch.tensor(case.spatial_shapes))
    assert torch.equal(call(tensor), call(case))


def test_the_reference_takes_the_same_arguments():
    case = random_case("plain")
    assert torch.equal(ms_deform_attn_reference(*case), call(case, "reference"))


def test_arguments_have_the_names_of_the_papers():
    case = random_case("plain")
    assert torch.equal(ms_deform_attn(**case._asdict(), backend="cpu"), call(case))


@every_backend
def test_gradients_by_themselves_are_those_of_autograd(backend):
    case = random_case("plain")
    expected = results(case, backend)
    upstream = upstream_of(expected.pop("out"))
    ours = ms_deform_attn_gradients(upstream, *case, backend=backend)
    for one, other in zip(ours, expected.values(), strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad


@every_backend
def test_gradients_of_no_levels_are_zeros(backend):
    case = case_without_levels("plain")
    ours = ms_deform_attn_gradients(torch.ones(2, 7, 8), *case, backend=backend)
    for one, x in zip(ours, tensors(case).values(), strict=True):
        assert torch.equal(one, torch.zeros_like(x))
