"""The Triton kernels, called directly, against the oracle in float64.

They run on a GPU if there is one, else through Triton's interpreter (see tests/conftest.py).
"""

import importlib
import os
import subprocess
import sys
from unittest import mock

import pytest
import torch

from .conftest import Case
from .forms import (
    anywhere,
    assert_same,
    call,
    case_without_levels,
    every_form,
    exact_results,
    express,
    leaves_of,
    random_case,
    replaced,
    results,
    tensors,
    upstream_of,
)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
SMALL = ((3, 4), (2, 3))
POINTERS = {
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.int32: "i32",
    torch.int64: "i64",
}

# There is no Triton for macOS and Windows; where there is one, a broken import of ours fails.
pytest.importorskip("triton", reason="Triton exists for Linux alone")
triton_launch = importlib.import_module("saccade.ops.ms_deform_attn.triton_launch")
# What is summed does not depend on the form, nor does the order.
every_form_and_sum = pytest.mark.parametrize(
    ("form", "deterministic"),
    [("plain", False), ("fused", False), ("fused-boxes", False), ("fused-boxes", True)],
)
both_sums = pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "sorted"])


def small_case(form, shapes=SMALL, heads=1, queries=5, **sizes):
    """As small as can be: the interpreter takes a tenth of a second for each tile and head."""
    return random_case(form, shapes, heads=heads, queries=queries, **sizes)


def in_a_process(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def compile_kernels():
    """Has each kernel that a case launches compiled for a GPU of compute capability 9.0."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    sources = {}

    def compile_instead(
        kernel, *arguments, grid, warmup, enable_fp_fusion, num_warps=4, **constants
    ):
        names = kernel.arg_names
        types, aligned = dict.fromkeys(names, "constexpr"), {}
        for number, x in enumerate(arguments):
            tensor = isinstance(x, torch.Tensor)
            types[names[number]] = f"*{POINTERS[x.dtype]}" if tensor else "i32"
            if tensor:
                aligned[(number,)] = [["tt.divisibility", 16]]
        values = {(names.index(name),): x for name, x in constants.items()}
        source = ASTSource(kernel, types, values, aligned)
        target = GPUTarget("cuda", 90, 32)
        options = {"num_warps": num_warps, "enable_fp_fusion": enable_fp_fusion}
        compiled = triton.compile(source, target=target, options=options)
        sources.setdefault(kernel.__name__, []).append(compiled.asm["ptx"])

    with mock.patch.object(triton.JITFunction, "run", compile_instead):
        kernels(random_case("plain", SMALL, channels=32))
        half = random_case("fused-boxes", SMALL, channels=32)
        kernels(half._replace(value=half.value.bfloat16()), deterministic=True)
    forward, fused_forward = sources["_forward_kernel"]
    atomic, ordered = sources["_backward_kernel"]
    assert "ld.global.v4" in forward
    assert "ld.global.v4" in fused_forward
    assert ".global.gpu.relaxed.add.v4.f32" in atomic
    assert ".relaxed.add" not in ordered + sources["_gather_kernel"][0]
    assert sources["_softmax_backward_kernel"]


def test_kernels_compile_without_an_interpreter_or_a_gpu(tmp_path):
    name = f"{__package__}.test_triton"
    in_a_process(
        *("-W", "error::UserWarning", "-c", f"import {name}; {name}.compile_kernels()"),
        TRITON_INTERPRET="0",
        TRITON_CACHE_DIR=str(tmp_path),
    )


def kernels(case, deterministic=False, wide=False):
    """Output and gradients, as forms.results. All memory is poisoned, see conftest."""
    from saccade.ops.ms_deform_attn import triton_backward, triton_forward

    case = replaced(case, lambda x: x.to(DEVICE))
    name = "are_deterministic_algorithms_enabled"
    with mock.patch.object(torch, name, return_value=deterministic):
        if isinstance(case, Case):
            out = triton_forward.forward(*case, wide=wide)
            upstream = upstream_of(out.cpu()).to(DEVICE)
            grads = triton_backward.backward(upstream, *case, wide=wide)
        else:
            value, shapes, references, offsets, logits, points, scale = case
            arguments = (value, shapes, points, references, offsets, logits, scale)
            out = triton_forward.fused_forward(*arguments, wide=wide)
            upstream = upstream_of(out.cpu()).to(DEVICE)
            grads = triton_backward.fused_backward(upstream, *arguments, True, wide=wide)
    named = {"out": out, **dict(zip(tensors(case), grads, strict=True))}
    return {name: x.cpu() for name, x in named.items()}


def relative_error(x, exact):
    return ((x.double() - exact).norm() / exact.norm().clamp_min(1e-30)).item()


def assert_accurate(case, most=1e-6, deterministic=False, wide=False):
    ours = kernels(case, deterministic, wide)
    for name, exact in exact_results(case).items():
        assert ours[name].dtype == getattr(case, name, case.value).dtype, name
        assert ours[name].shape == exact.shape, name
        assert relative_error(ours[name], exact) <= most, name


@both_sums
@pytest.mark.parametrize("channels", [1, 4, 30, 32, 71])
def test_accuracy_at_odd_and_usual_channels(channels, deterministic):
    case = small_case("plain", channels=channels)
    assert_accurate(case, deterministic=deterministic)


@every_form_and_sum
@pytest.mark.parametrize(
    "sizes",
    [
        {"shapes": [(1, 1)], "images": 1, "heads": 1, "points": 1},
        {"shapes": [(1, 5), (4, 1), (2, 2)], "points": 5},
        {"queries": 18},  # as many as tokens: taken in patches
    ],
)
def test_accuracy_at_odd_sizes(form, sizes, deterministic):
    assert_accurate(small_case(form, **sizes), deterministic=deterministic)


@pytest.mark.parametrize(("form", "deterministic"), [("plain", False), ("fused-boxes", True)])
@pytest.mark.parametrize(
    "sizes",
    [
        {"queries": 9, "heads": 3, "images": 3, "points": 2},
        {"shapes": [(5, 9), (2, 1)], "queries": 47, "images": 1, "heads": 1},
    ],
)
def test_accuracy_at_larger_odd_sizes(form, sizes, deterministic):
    assert_accurate(small_case(form, **sizes), deterministic=deterministic)


def test_samples_of_which_most_lie_outside():
    assert_accurate(small_case("fused-boxes", margin=3.0, queries=16, heads=2), 1e-5)


@pytest.mark.parametrize("form", ["fused", "fused-boxes"])
@pytest.mark.parametrize("points", [[3, 6], [1, 2], [7, 1]])
def test_a_different_number_of_points_for_each_level(form, points):
    case = anywhere(small_case(form, points=points))
    assert_accurate(case._replace(box_scale=0.3))


def test_sorted_sums_of_a_different_number_of_points_for_each_level():
    assert_accurate(small_case("fused", points=[3, 6], heads=2), deterministic=True)


@every_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_loses_nothing_but_rounding(form, dtype):
    case = small_case(form, channels=16)
    weights = "attention_weights" if form == "plain" else "attention_logits"
    half = {name: getattr(case, name).to(dtype) for name in ("value", weights)}
    # One of the ways with each of the dtypes: the last rounding is all that differs.
    assert_accurate(case._replace(**half), torch.finfo(dtype).eps, dtype == torch.float16)


@every_form
def test_double_precision_where_any_input_has_it(form):
    case = small_case(form, dtype=torch.float64)
    assert_accurate(case, 1e-13, deterministic=form == "fused")
    mixed = case._replace(value=case.value.float())
    exact = exact_results(mixed)
    ours = kernels(mixed)
    for name in set(exact) - {"out", "value"}:
        assert relative_error(ours[name], exact[name]) <= 1e-7, name


@every_form_and_sum
def test_special_pixels(form, deterministic):
    # Sides are powers of two: fractions and pixels are exact, so the kinks are hit exactly.
    shapes = [(4, 2), (2, 4)]
    places = [-1.5, -1, -0.5, 0, 0.5, 1, 2, 2.5, 3, 3.5, 4]
    pixels = torch.tensor([(x, y) for x in places for y in places[1::2]])
    sides = torch.tensor([(w, h) for h, w in shapes]).repeat_interleave(2, 0)
    locations = (pixels.view(1, -1, 1, 1, 2) + 0.5) / sides
    generator = torch.Generator().manual_seed(2)
    value = torch.randn(1, 16, 1, 4, generator=generator)
    logits = torch.randn(locations.shape[:-1], generator=generator)
    case = express(form, value, shapes, (2, 2), locations, logits)
    assert_same(kernels(case, deterministic), exact_results(case), 1e-4, 1e-5)


@every_form_and_sum
def test_locations_that_are_not_finite_or_far_away(form, deterministic):
    case = random_case(form, SMALL, queries=14, images=1)
    bad = (float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 3e9, -3e9)
    for query, number in enumerate(bad):
        case[2][:, query, ..., 0] = number
        case[2][:, 7 + query, ..., 1] = number
    ours = kernels(case, deterministic)
    for name in set(ours) - {"value"}:
        assert (ours[name] == 0).all(), name
    assert (ours["value"] == 0).all()


def test_some_samples_of_a_query_that_are_not_finite():
    case = small_case("fused")
    case.sampling_offsets[:, 1::2, :, 1, 0] = float("nan")
    case.sampling_offsets[:, ::2, :, 2, 1] = float("inf")
    assert_same(kernels(case), exact_results(case), 1e-4, 1e-5)


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's, of products that are not used
def test_boxes_without_a_size():
    case = small_case("fused-boxes")
    case.reference_points[:, 1, 0, 2] = float("nan")
    case.reference_points[:, 2, 1, 3] = float("inf")
    ours = kernels(case)
    assert_same(ours, exact_results(case), 1e-4, 1e-5)
    assert all(x.isfinite().all() for x in ours.values())


def test_logits_of_any_size():
    case = small_case("fused", points=[3, 1])
    case.attention_logits[:, 0] = -300.0
    case.attention_logits[:, 1] = 300.0
    case.attention_logits[:, 2, :, 1] = -float("inf")
    case.attention_logits[:, 3, :, 0] = 1e30
    ours = kernels(case)
    assert_same(ours, exact_results(case), 1e-4, 1e-5)
    assert all(x.isfinite().all() for x in ours.values())


@both_sums
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_value_no_sample_touches_does_not_leak(poison, deterministic):
    case = random_case("plain", [(4, 4)], queries=6, margin=0.0)
    # All samples left of the pixel column 2, or beyond the map: column 3 stays unread.
    case.sampling_locations[..., 0] *= 0.5
    case.sampling_locations[:, ::3, ..., 0] = 1.5
    case.sampling_locations[:, 1::3, ..., 0] = float("nan")
    clean = kernels(case, deterministic)
    case.value.view(2, 4, 4, 2, -1)[:, :, 3] = poison
    assert_same(kernels(case, deterministic), clean)


def test_a_value_that_samples_touch_is_seen():
    case = random_case("plain", [(3, 3)], queries=3, margin=0.0)
    case.value[:] = float("nan")
    assert kernels(case)["out"].isnan().all()


@every_form_and_sum
@pytest.mark.parametrize("empty", ["images", "queries", "heads", "channels"])
def test_empty_inputs(form, empty, deterministic):
    case = random_case(form, SMALL, **{empty: 0})
    ours = kernels(case, deterministic)
    value, places = case.value, case[2]
    width = value.shape[2] * value.shape[3]
    shapes = {"out": (value.shape[0], places.shape[1], width)}
    shapes |= {name: x.shape for name, x in tensors(case).items()}
    for name, shape in shapes.items():
        assert ours[name].shape == shape, name
        assert (ours[name] == 0).all(), name


@every_form
def test_no_levels_give_nothing(form):
    case = replaced(case_without_levels(form), lambda x: x.to(DEVICE))
    ours = results(case, "triton")
    assert ours["out"].shape == (2, 7, 8)
    assert not any(x.any() for x in ours.values())


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's, of products that are not used
@every_form
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [float("nan"), 1e6])
def test_samples_that_touch_nothing_get_no_gradient_from_a_broken_loss(form, number, place):
    case = small_case(form)
    places = case.sampling_locations if form == "plain" else case.sampling_offsets
    places[1] = place
    leaves = leaves_of(replaced(case, lambda x: x.to(DEVICE)))
    out = call(leaves, "triton")
    upstream = upstream_of(out)
    upstream[1] = number
    out.backward(upstream)
    for name, x in tensors(leaves).items():
        if not name.startswith("attention"):
            assert (x.grad[1] == 0).all(), name
        assert x.grad[0].isfinite().all(), name


@every_form
def test_strided_and_expanded_inputs(form):
    case = random_case(form, SMALL, images=1, queries=5)
    expected = kernels(case)
    strided = replaced(case, lambda x: torch.nn.functional.pad(x, (1, 2))[..., 1:-2])
    assert not any(x.is_contiguous() for x in tensors(strided).values())
    assert_same(kernels(strided), expected)
    expanded = replaced(case, lambda x: x.expand(2, *x.shape[1:]))
    assert_same({"out": kernels(expanded)["out"][1:]}, {"out": expected["out"]})


@every_form_and_sum
def test_addresses_in_64_bits(form, deterministic):
    case = small_case(form)
    assert_same(kernels(case, deterministic, wide=True), kernels(case, deterministic))


@pytest.mark.parametrize("form", ["plain", "fused-boxes"])
def test_sorted_sums_are_the_same_every_time_and_equal_the_atomic_ones(form):
    # Three maps of one token: many samples in few cells, more than a program adds at a time.
    case = small_case(form, [(1, 1)] * 3, queries=8, heads=2, channels=5)
    first = kernels(case, deterministic=True)
    assert_same(kernels(case, deterministic=True), first)
    assert_same(kernels(case), first, 1e-5, 1e-5)


def test_sorted_sums_need_no_float_atomics():
    from saccade.ops.ms_deform_attn import triton_backward

    case = small_case("plain")
    with mock.patch.object(triton_backward.tl, "atomic_add", side_effect=AssertionError):
        kernels(case, deterministic=True)


def test_the_table_of_levels_is_made_once():
    arguments = (((3, 4), (2, 3)), (3, 6), (2, 4), torch.device(DEVICE))
    table = triton_launch.level_table(*arguments)
    assert table.tolist() == [[3, 4, 0, 3, 0, 0, 0], [2, 3, 12, 6, 3, 20, 2]]
    assert triton_launch.level_table(*arguments) is table


@pytest.mark.parametrize("channels", [1, 4, 30, 32, 64, 71, 256, 1024])
@pytest.mark.parametrize("itemsize", [2, 4, 8])
@pytest.mark.parametrize("points", [1, 3, 4, 9])
@pytest.mark.parametrize("queries", [1, 10**6])
def test_tiles_fill_their_threads_and_fit_their_registers(channels, itemsize, points, queries):
    tile = triton_launch.choose_tile(channels, itemsize, points, queries)
    samples = tile.queries * tile.points
    assert 0 < samples <= 32 * tile.warps
    assert tile.channels * itemsize <= 128
    assert tile.points <= 2 * points


def test_a_tile_of_the_usual_head_has_a_sample_for_each_thread():
    assert triton_launch.choose_tile(32, 4, 4, 10**6) == triton_launch.Tile(32, 4, 32, 4)
    assert triton_launch.choose_tile(32, 4, 4, 300) == triton_launch.Tile(8, 4, 32, 1)


@every_form
def test_the_public_operator_reaches_the_kernels(form):
    case = replaced(small_case(form), lambda x: x.to(DEVICE))
    ours, expected = results(case, "triton"), results(case, "reference")
    for name, x in ours.items():
        torch.testing.assert_close(x, expected[name], rtol=1e-4, atol=1e-5)


def test_references_without_a_gradient_have_none():
    case = replaced(small_case("fused-boxes"), lambda x: x.to(DEVICE))
    leaves = replaced(case, lambda x: x.requires_grad_())
    leaves = leaves._replace(reference_points=case.reference_points.detach())
    call(leaves, "triton").sum().backward()
    assert leaves.reference_points.grad is None
    assert leaves.sampling_offsets.grad.isfinite().all()
