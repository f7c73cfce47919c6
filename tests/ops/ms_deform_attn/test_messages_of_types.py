"""Types, devices and backends that are refused, each with a sentence that shows the value."""

import re

import numpy as np
import pytest
import torch

from saccade.ops import ms_deform_attn_gradients

from .forms import call, every_backend, every_form, every_kind, random_case, tensors

pytestmark = pytest.mark.usefixtures("unchecked_shapes")


def case_of(form):
    return random_case(form, [(2, 3), (1, 2)], queries=5, heads=3)


def refused(argument, given, expected):
    return pytest.raises(
        ValueError, match=f"^{argument} is {re.escape(str(given))} but .*{expected}.* expected"
    )


@every_form
@pytest.mark.parametrize(
    "shapes",
    [
        None,
        6,
        "maps",
        ["23", "12"],
        [("2", "3"), ("1", "2")],
        [(2, 3), (1, None)],
        [(2.0, 3.0), (1.0, 2.0)],
        np.array([[2, 3], [1, 2]], np.float32),
        [(np.float32(2), np.float32(3)), (np.float32(1), np.float32(2))],
        torch.tensor([[2.0, 3.0], [1.0, 2.0]]),
    ],
    ids=str,
)
def test_sides_that_are_no_whole_numbers(form, shapes):
    shown = shapes.tolist() if isinstance(shapes, torch.Tensor) else shapes
    with refused("spatial_shapes", shown, r"a \(height, width\) of whole numbers"):
        call(case_of(form)._replace(spatial_shapes=shapes))


@every_kind
@pytest.mark.parametrize(
    "points",
    [
        8,
        "44",
        ["4", "4"],
        [4, None],
        [4.5, 3.5],
        [4.0, 4.0],
        [np.float32(4), np.float32(4)],
        np.array([4, 4], np.float32),
        torch.tensor([4.0, 4.0]),
    ],
    ids=str,
)
def test_points_that_are_no_whole_numbers(kind, points):
    message = r"^points_per_level is .*[48].* but 2 numbers of at least 0 are expected"
    with pytest.raises(ValueError, match=message):
        call(case_of(kind)._replace(points_per_level=points))


@every_backend
@every_kind
@pytest.mark.parametrize("integers", [np.array, torch.tensor])
def test_whole_numbers_of_other_libraries(kind, backend, integers):
    case = case_of(kind)
    other = case._replace(
        spatial_shapes=integers([[2, 3], [1, 2]]), points_per_level=integers([4, 4])
    )
    assert torch.equal(call(other, backend), call(case, backend))


@every_form
@every_backend
def test_one_map_may_have_sides_that_numpy_counted(form, backend):
    case = random_case(form, [(2, 3)])
    other = case._replace(spatial_shapes=[(np.int64(2), np.int32(3))])
    assert torch.equal(call(other, backend), call(case, backend))


@every_kind
@pytest.mark.parametrize(
    "scale",
    [
        float("nan"),
        float("inf"),
        -float("inf"),
        None,
        "0.5",
        1j,
        torch.tensor(0.5),
        torch.tensor(0.5, requires_grad=True),
    ],
    ids=str,
)
def test_a_box_scale_that_is_no_number(kind, scale):
    with refused("box_scale", repr(scale), "a finite number is"):
        call(case_of(kind)._replace(box_scale=scale))


@every_backend
@every_kind
@pytest.mark.parametrize("scale", [1, np.float64(1), np.float32(1), np.int64(1)])
def test_a_box_scale_that_is_a_number_of_another_kind(kind, backend, scale):
    case = case_of(kind)._replace(box_scale=1.0)
    assert torch.equal(call(case._replace(box_scale=scale), backend), call(case, backend))


def assert_each_tensor_is_refused(form, change, message):
    """Where one after another of the tensors, and no other, is changed."""
    case = case_of(form)
    for name, x in tensors(case).items():
        with pytest.raises(ValueError, match=f"^{name} is {message}"):
            call(case._replace(**{name: change(x)}))


@every_form
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_numbers_that_have_no_fractions_or_two_parts(form, dtype):
    assert_each_tensor_is_refused(
        form,
        lambda x: x.to(dtype),
        rf"{dtype} but floating-point numbers are expected; convert it, for example with \.float",
    )


@every_form
def test_numbers_of_eight_bits(form):
    dtype = torch.float8_e4m3fn
    assert_each_tensor_is_refused(
        form, lambda x: x.to(dtype), rf"{dtype} .*but .* expected; convert it, .*\.float\(\)"
    )


@every_form
def test_sparse_tensors(form):
    assert_each_tensor_is_refused(
        form, torch.Tensor.to_sparse, r".*sparse.* but .* expected; convert it, .*\.to_dense\(\)"
    )


@every_form
@pytest.mark.parametrize("convert", [torch.Tensor.numpy, torch.Tensor.tolist])
def test_what_is_no_tensor(form, convert):
    name = type(convert(torch.ones(1))).__name__
    assert_each_tensor_is_refused(
        form, convert, rf"an? {name} but a torch\.Tensor is expected; convert it, .*as_tensor"
    )


def test_a_gradient_of_the_output_that_is_no_tensor_of_its_shape():
    case = case_of("plain")
    with pytest.raises(ValueError, match=r"^grad_out is a ndarray but .* expected"):
        ms_deform_attn_gradients(np.ones((2, 5, 12)), *case)
    with pytest.raises(ValueError, match=r"^grad_out has shape \[2, 5, 4\] but .* expected"):
        ms_deform_attn_gradients(torch.ones(2, 5, 4), *case)


@every_form
def test_another_device(form):
    case = case_of(form)
    for name in [*tensors(case)][1:]:
        expected = f"{name} is on meta but value is on cpu; move them to one device."
        with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
            call(case._replace(**{name: getattr(case, name).to("meta")}))


@every_form
@pytest.mark.parametrize("backend", ["cuda", "CPU", None])
def test_an_unknown_backend(form, backend):
    expected = (
        f"backend is {backend!r} but one of 'auto', 'reference', 'cpu', 'triton' is expected; "
        "'auto' takes the fastest for the device."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        call(case_of(form), backend)


@every_form
def test_a_backend_that_cannot_serve_the_device(form, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=r"backend 'triton' cannot .*; pass backend='auto'\.$"):
        call(case_of(form), "triton")
