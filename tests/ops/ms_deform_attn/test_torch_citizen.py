"""What torch.library, torch.compile, torch.export, autocast and fake tensors ask of an operator."""

import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import jvp

from .conftest import Case
from .forms import (
    FORMS,
    assert_same,
    call,
    every_backend,
    every_form,
    leaves_of,
    random_case,
    registered,
    replaced,
    results,
    tensors,
    upstream_of,
)


def arguments_of(operator, case, backend="cpu", upstream=None):
    """The case in the order in which the operator's own schema asks for it."""
    remaining = list(tensors(case).values())
    if operator == registered(case)[1]:
        remaining.insert(0, upstream_of(call(case)) if upstream is None else upstream)
    lists = [[side for shape in case.spatial_shapes for side in shape]]
    lists += [list(case.points_per_level)] if not isinstance(case, Case) else []
    by_type = {
        "Tensor": remaining,
        "List[int]": lists,
        "float": [getattr(case, "box_scale", None)],
        "bool": [True],
        "str": [backend],
    }
    arguments = tuple(by_type[str(each.type)].pop(0) for each in operator._schema.arguments)
    assert by_type["Tensor"] == by_type["List[int]"] == by_type["str"] == []
    return arguments


def laid_out_backwards(x):
    return x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim)))


# PyTorch's check itself looks at .grad of tensors that have none.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@every_form
@pytest.mark.parametrize("kind", ["usual", "strided", "half", "empty"])
def test_the_registration_holds_what_pytorch_asks_of_it(form, kind):
    case = random_case(form, queries=0 if kind == "empty" else 5)
    if kind == "half":
        case = case._replace(value=case.value.bfloat16())
    elif kind == "strided":
        case = replaced(case, laid_out_backwards)
    forward, backward = registered(case)
    torch.library.opcheck(forward, arguments_of(forward, leaves_of(case)))
    torch.library.opcheck(backward, arguments_of(backward, case))


@every_form
@every_backend
def test_autocast_casts_value_but_no_place(form, backend, unchecked_shapes):
    case = random_case(form, [(1, 512)], images=1, queries=3, heads=1, points=1)
    value = torch.full((1, 512, 1, 4), 4.0)
    value[:, 300] = 0
    # Three quarters of the way from token 300 to 301: bfloat16 knows this place to two tokens.
    place = torch.tensor([300.75 + 0.5, 0.5]) / torch.tensor([512, 1])
    case = case._replace(value=value)
    if form == "plain":
        case.sampling_locations[:] = place
    else:
        case.reference_points[..., :2] = place - torch.tensor([0.25, 0])
        case.sampling_offsets[:] = torch.tensor([128.0, 0])
        if form == "fused-boxes":
            case.reference_points[..., 2:] = 2**-7
            case.sampling_offsets[:] = torch.tensor([64.0, 0])
    outside = results(case, backend)
    with torch.autocast("cpu", torch.bfloat16):
        inside = results(case, backend)

        def compiled(*arguments):
            return call(type(case)(*arguments), backend)

        traced = results(case, function=torch.compile(compiled, backend="aot_eager"))
    assert inside["out"].dtype == torch.bfloat16
    assert_same(traced, inside)
    kept = {"sampling_locations", "sampling_offsets", "reference_points"}
    for name, x in tensors(case).items():
        assert inside[name].dtype == x.dtype, name
        assert inside[name].any() or name not in kept | {"value"}
    exact = torch.full((1, 3, 4), 3.0)
    assert torch.equal(outside["out"], exact)
    assert torch.equal(inside["out"].float(), exact)


@pytest.mark.parametrize("form", FORMS[1:])
def test_autocast_takes_half_precision_logits_from_the_layer_before(form):
    case = random_case(form)
    half = case._replace(
        value=case.value.bfloat16(), attention_logits=case.attention_logits.bfloat16()
    )
    with torch.autocast("cpu", torch.bfloat16):
        cast = call(case)
        assert torch.equal(call(half), cast)
    assert torch.equal(call(half), cast)
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        assert call(case).dtype == torch.float32


@every_form
@pytest.mark.parametrize("backend", ["cpu", "auto"])
def test_a_second_derivative_names_the_backend_that_has_it(form, backend):
    leaves = leaves_of(random_case(form))
    wanted = list(tensors(leaves).values())
    first = torch.autograd.grad(call(leaves, backend).square().sum(), wanted, create_graph=True)
    for grad in first:
        with pytest.raises(NotImplementedError, match="backend='reference'"):
            grad.square().sum().backward(retain_graph=True)


@every_form
def test_the_reference_has_second_derivatives(form):
    leaves = leaves_of(random_case(form))
    wanted = list(tensors(leaves).values())
    out = call(leaves, "reference").square().sum()
    first = torch.autograd.grad(out, wanted, create_graph=True)
    second = torch.autograd.grad(sum(x.square().sum() for x in first), wanted)
    assert all(x.isfinite().all() and x.any() for x in second)


# PyTorch's own rules for this mode are compiled when they are first needed.
forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")


def pushed_forward(case, name, backend):
    """Output and its derivative along one tensor of the case, in a fixed direction."""
    given = getattr(case, name)
    along = torch.linspace(0, 3, given.numel(), dtype=given.dtype).cos().view(given.shape)
    return jvp(lambda x: call(case._replace(**{name: x}), backend), (given,), (along,)), along


@forward_mode
@every_form
@pytest.mark.parametrize("backend", ["cpu", "auto"])
def test_a_derivative_in_forward_mode_names_the_backend_that_has_it(form, backend):
    case = random_case(form)
    for name, x in tensors(case).items():
        with pytest.raises(NotImplementedError, match="backend='reference'"):
            pushed_forward(case, name, backend)
        with forward_ad.dual_level():
            dual = case._replace(**{name: forward_ad.make_dual(x, torch.ones_like(x))})
            with pytest.raises(NotImplementedError, match="backend='reference'"):
                call(dual, backend)
            assert torch.equal(call(case, backend), call(case))


@forward_mode
@every_form
def test_the_reference_has_derivatives_in_forward_mode(form):
    case = random_case(form, dtype=torch.float64)
    expected = results(case, "reference")
    upstream = upstream_of(expected["out"])
    for name in tensors(case):
        (out, pushed), along = pushed_forward(case, name, "reference")
        assert torch.equal(out, expected["out"])
        torch.testing.assert_close((pushed * upstream).sum(), (expected[name] * along).sum())


@every_form
@every_backend
def test_gradients_are_there_for_whom_asks(form, backend):
    case = random_case(form)
    expected = results(case, backend)
    for name in tensors(case):
        leaf = getattr(case, name).clone().requires_grad_()
        out = call(case._replace(**{name: leaf}), backend)
        assert torch.equal(out, expected["out"])
        (grad,) = torch.autograd.grad(out, leaf, upstream_of(out))
        assert torch.equal(grad, expected[name]), name
    assert not call(case, backend).requires_grad


@every_form
@every_backend
def test_the_gradient_of_a_plain_sum(form, backend):
    # Its upstream gradient is one number expanded.
    case = random_case(form)
    leaves = leaves_of(case)
    call(leaves, backend).sum().backward()
    out = call(again := leaves_of(case), backend)
    out.backward(torch.ones_like(out))
    for name, x in tensors(leaves).items():
        assert torch.equal(x.grad, getattr(again, name).grad), name


@every_form
@every_backend
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_without_gradients_the_output_is_the_same(form, backend, mode):
    case = random_case(form)
    expected = call(case, backend)
    with mode():
        fresh = replaced(leaves_of(case), torch.clone)
        out = call(fresh, backend)
        assert not out.requires_grad
        assert torch.equal(out, expected)


@every_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fake_gpu_knows_shape_dtype_and_device(form, dtype):
    case = random_case(form, queries=5)
    case = case._replace(value=case.value.to(dtype))
    with FakeTensorMode(), warnings.catch_warnings():
        # Without triton `auto` says that it falls back.
        warnings.simplefilter("ignore", UserWarning)
        fake = replaced(case, lambda x: torch.empty(x.shape, dtype=x.dtype, device="cuda"))
        out = call(fake)
        backward = registered(fake)[1]
        # Not through autograd, whose engine wants a real device.
        grads = backward(*arguments_of(backward, fake, "triton", torch.empty_like(out)))
    assert (out.shape, out.dtype, out.device.type) == ((2, 5, 8), dtype, "cuda")
    for grad, x in zip(grads, tensors(fake).values(), strict=True):
        assert (grad.shape, grad.dtype, grad.device.type) == (x.shape, x.dtype, "cuda")


@every_form
def test_shapes_are_known_without_data(form):
    meta = replaced(random_case(form), lambda x: x.to("meta"))
    for name, x in results(meta).items():
        expected = (2, 7, 8) if name == "out" else getattr(meta, name).shape
        assert (x.shape, x.device.type) == (expected, "meta"), name
