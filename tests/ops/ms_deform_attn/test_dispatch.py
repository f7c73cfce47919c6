import re
import warnings

import pytest
import torch

from saccade.ops import ms_deform_attn, ms_deform_attn_reference
from saccade.ops.ms_deform_attn import dispatch


def test_shapes_may_be_pairs_or_a_tensor(make_case):
    case = make_case(channels=4)
    tensor = case._replace(spatial_shapes=torch.tensor(case.spatial_shapes))
    torch.testing.assert_close(ms_deform_attn(*tensor), ms_deform_attn(*case), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"value": torch.zeros(2, 10, 12)},
            "value has shape [2, 10, 12] but 4 dimensions [B, S, M, D] are expected; "
            "split its channels into heads, value.unflatten(-1, (M, D)).",
        ),
        (
            {"spatial_shapes": [(2, 3), (1, 1)]},
            "value has 8 tokens but spatial_shapes describe 2x3 + 1x1 = 7; pass (height, width) "
            "of the maps you flattened, in that order.",
        ),
        (
            {"sampling_locations": torch.zeros(2, 5, 3, 4, 2)},
            "sampling_locations has shape [2, 5, 3, 4, 2] but [B, Q, M, L, P, 2] is expected; "
            "the last dimension is (x, y).",
        ),
        (
            {"sampling_locations": torch.zeros(2, 5, 3, 1, 4, 2)},
            "sampling_locations has shape [2, 5, 3, 1, 4, 2] but [B, Q, M, L, P, 2] = "
            "[2, 5, 3, 2, 4, 2] is expected; B and M are those of value [2, 8, 3, 4], "
            "L = 2 counts spatial_shapes.",
        ),
        (
            {"attention_weights": torch.zeros(2, 5, 3, 8)},
            "attention_weights has shape [2, 5, 3, 8] but [B, Q, M, L, P] = [2, 5, 3, 2, 4] is "
            "expected, one weight for each sampling location; unflatten the softmax over L*P "
            "into (L, P).",
        ),
        (
            {"value": torch.zeros(2, 8, 3, 4, device="meta")},
            "sampling_locations is on cpu but value is on meta; move them to one device.",
        ),
        (
            {"value": torch.zeros(2, 8, 3, 4, dtype=torch.long)},
            "value is torch.int64 but floating-point numbers are expected; convert it, for "
            "example with .float().",
        ),
        (
            {"backend": "cuda"},
            "backend is 'cuda' but one of 'auto', 'reference', 'cpu', 'triton' is expected; "
            "'auto' takes the fastest for the device.",
        ),
    ],
)
def test_errors_show_value_expectation_and_remedy(make_case, unchecked_shapes, change, message):
    case = make_case([(2, 3), (1, 2)], queries=5, channels=4)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ms_deform_attn(**{**case._asdict(), **change})


def test_a_device_without_kernels_is_said_once(monkeypatch):
    monkeypatch.setattr(dispatch, "_announced", set())
    with pytest.warns(UserWarning, match="'reference' on mps: there is no kernel for mps"):
        assert dispatch._choose("auto", "mps") == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dispatch._choose("auto", "mps") == "reference"
        assert dispatch._choose("reference", "mps") == "reference"
    with pytest.raises(ValueError, match="backend 'cpu' cannot read tensors on cuda"):
        dispatch._choose("cpu", "cuda")
    with pytest.raises(ValueError, match="'triton' cannot be used: there is no kernel for mps"):
        dispatch._choose("triton", "mps")


def test_a_gpu_without_triton_says_why(monkeypatch):
    monkeypatch.setattr(dispatch, "_announced", set())
    assert dispatch._choose("auto", "cuda") == "triton"
    monkeypatch.setattr(dispatch, "_has_triton", lambda: False)
    with pytest.warns(UserWarning, match="on cuda: the package triton is not installed"):
        assert dispatch._choose("auto", "cuda") == "reference"


def test_auto_uses_the_kernels_on_the_cpu():
    assert dispatch._choose("auto", "cpu") == "cpu"


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_second_derivatives(make_case, backend):
    case = make_case(channels=4).with_gradients()
    out = ms_deform_attn(*case, backend=backend)
    (grad,) = torch.autograd.grad(out.square().sum(), case.value, create_graph=True)
    if backend == "reference":
        grad.square().sum().backward()
        assert case.sampling_locations.grad.isfinite().all()
    else:
        with pytest.raises(NotImplementedError, match="call it with backend='reference'"):
            grad.square().sum().backward()


def test_autocast_leaves_locations_alone(make_case):
    case = make_case()
    half = case._replace(value=case.value.bfloat16())
    expected = ms_deform_attn(*half)
    with torch.autocast("cpu", torch.bfloat16):
        out = ms_deform_attn(*half)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, expected, rtol=0, atol=0)


def test_shapes_are_known_without_data(make_case):
    case = make_case(channels=4)
    meta = [x.to("meta") if isinstance(x, torch.Tensor) else x for x in case]
    assert ms_deform_attn(*meta).shape == ms_deform_attn(*case).shape


# PyTorch's check itself looks at .grad of tensors that have none.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_registration_holds_what_pytorch_asks_of_it(make_case):
    case = make_case(channels=4).with_gradients()
    sides = [side for shape in case.spatial_shapes for side in shape]
    arguments = (case.value, sides, case.sampling_locations, case.attention_weights, "cpu")
    torch.library.opcheck(torch.ops.saccade.ms_deform_attn.default, arguments)
    detached = [x.detach() if isinstance(x, torch.Tensor) else x for x in arguments]
    grad_out = torch.ones(2, 13, 12)
    torch.library.opcheck(torch.ops.saccade.ms_deform_attn_backward.default, (grad_out, *detached))


def test_compiles_in_one_graph(make_case, unchecked_shapes):
    case = make_case(channels=4)

    def function(*arguments):
        return ms_deform_attn(*arguments) * 2

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for one, other in zip(
        case.out_and_gradients(compiled), case.out_and_gradients(function), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_exports_as_one_node(make_case, unchecked_shapes):
    case = make_case(channels=4)

    class Module(torch.nn.Module):
        def forward(self, value, locations, weights):
            return ms_deform_attn(value, case.spatial_shapes, locations, weights)

    inputs = (case.value, case.sampling_locations, case.attention_weights)
    program = torch.export.export(Module(), inputs)
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert calls == [torch.ops.saccade.ms_deform_attn.default]
    torch.testing.assert_close(program.module()(*inputs), ms_deform_attn(*case))


def test_reference_takes_the_same_arguments(make_case):
    case = make_case(channels=4)
    torch.testing.assert_close(
        ms_deform_attn(*case, backend="reference"), ms_deform_attn_reference(*case)
    )
