"""The compiled kernels, through the public operator, against the reference in float64."""

import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import numba
import numpy
import pytest
import torch
from torch.autograd import gradcheck
from transformers.models.deformable_detr.modeling_deformable_detr import (
    MultiScaleDeformableAttention,
)

from saccade.ops import ms_deform_attn, ms_deform_attn_reference
from saccade.ops.ms_deform_attn import cpu_compile

NAMES = ("out", "grad_value", "grad_locations", "grad_weights")


def kernels(*arguments):
    return ms_deform_attn(*arguments, backend="cpu")


def grid_sample(value, shapes, locations, weights):
    return MultiScaleDeformableAttention()(value, None, shapes, None, locations, weights, 64)


def relative_error(x, exact):
    return ((x.double() - exact).norm() / exact.norm().clamp_min(1e-30)).item()


def assert_as_accurate_as_grid_sample(case):
    exact = case.like(torch.float64).out_and_gradients(ms_deform_attn_reference)
    theirs = case.out_and_gradients(grid_sample)
    ours = case.out_and_gradients(kernels)
    floor = torch.finfo(torch.float32).eps
    for name, one, other, truth in zip(NAMES, ours, theirs, exact, strict=True):
        error, allowed = relative_error(one, truth), 2 * relative_error(other, truth) + floor
        assert error <= allowed, f"{name}: {error:.1e} > {allowed:.1e}"


def assert_equal_to_reference(case, rtol=1e-4, atol=1e-5):
    exact = case.like(torch.float64).out_and_gradients(ms_deform_attn_reference)
    for name, one, truth in zip(NAMES, case.out_and_gradients(kernels), exact, strict=True):
        torch.testing.assert_close(
            one.double(), truth, rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("channels", [1, 4, 30, 32, 64, 71])
def test_accuracy_at_odd_and_usual_channels(make_case, channels):
    assert_as_accurate_as_grid_sample(make_case(channels=channels, queries=67))


@pytest.mark.parametrize(
    "sizes",
    [
        {"shapes": [(7, 9)]},
        {"points": 1},
        {"shapes": [(1, 1)], "points": 1, "heads": 1, "images": 1},
        {"shapes": [(9, 7), (5, 4), (3, 2), (2, 1)], "points": 5},
        {"shapes": [(1, 40), (40, 1)]},
        {"queries": 1},
        {"queries": 3, "points": 300},  # more than a block of samples
        {"queries": 131, "heads": 5},  # two full blocks and a rest
        {"margin": 3.0},  # most samples outside
    ],
)
def test_accuracy_at_odd_sizes(make_case, sizes):
    assert_as_accurate_as_grid_sample(make_case(**sizes))


@pytest.mark.parametrize("empty", ["images", "queries", "heads", "channels", "points"])
def test_empty_inputs(make_case, empty):
    case = make_case(**{empty: 0})
    ours = case.out_and_gradients(kernels)
    for one, other in zip(ours, case.out_and_gradients(ms_deform_attn_reference), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("channels", [4, 7])
def test_gradients_are_exact_in_double_precision(make_case, channels):
    case = make_case(
        [(3, 4), (2, 1)], queries=3, heads=2, channels=channels, points=2, dtype=torch.float64
    ).with_gradients()

    def function(value, locations, weights):
        return kernels(value, case.spatial_shapes, locations, weights)

    assert gradcheck(function, (case.value, case.sampling_locations, case.attention_weights))


def with_pixels(case, pixels):
    """The case with its first samples on the given (x, y) pixels, in every level."""
    locations = case.sampling_locations.clone()
    for level, (height, width) in enumerate(case.spatial_shapes):
        at = torch.tensor([(x(width), y(height)) for x, y in pixels], dtype=locations.dtype)
        size = torch.tensor([width, height])
        locations[:, : len(pixels), :, level] = ((at + 0.5) / size)[None, :, None, None]
    return case._replace(sampling_locations=locations)


def test_special_pixels(make_case):
    # Maps of 4 and 8 tokens: fractions and pixels are exact, so the kinks are hit exactly.
    places = [lambda n, i=i: i for i in (-1.5, -1, -0.5, 0, 0.5, 1)]
    places += [lambda n, i=i: n + i for i in (-2, -1.5, -1, -0.5, 0, 0.5)]
    pixels = [(x, y) for x in places for y in places]
    case = make_case([(4, 8), (8, 4)], queries=len(pixels) + 1)
    assert_equal_to_reference(with_pixels(case, pixels))


def test_locations_that_are_not_finite_or_far_away(make_case):
    case = make_case(queries=30)
    bad = (float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 3e9, -3e9)
    for query, number in enumerate(bad):
        case.sampling_locations[:, 3 * query, ..., 0] = number
        case.sampling_locations[:, 3 * query + 1, ..., 1] = number
        case.sampling_locations[:, 3 * query + 2] = number
    out, grad_value, grad_locations, grad_weights = case.out_and_gradients(kernels)
    touched = slice(0, 3 * len(bad))
    assert (out[:, touched] == 0).all()
    assert (grad_locations[:, touched] == 0).all()
    assert (grad_weights[:, touched] == 0).all()
    assert grad_value.isfinite().all()
    assert_equal_to_reference(case)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_value_no_sample_touches_does_not_leak(make_case, poison):
    case = make_case([(6, 6)], margin=0.0)
    # All samples left of the pixel column 3, or right beyond the map: column 4 and 5 stay unread.
    case.sampling_locations[..., 0] *= 0.5
    case.sampling_locations[:, ::3, ..., 0] = 1.5
    case.sampling_locations[:, 1::3, ..., 0] = float("nan")
    clean = case.out_and_gradients(kernels)
    case.value.view(2, 6, 6, 3, -1)[:, :, 4:] = poison
    for one, other in zip(case.out_and_gradients(kernels), clean, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_value_that_samples_touch_is_seen(make_case):
    case = make_case([(3, 3)], margin=0.0)
    case.value[:] = float("nan")
    assert kernels(*case).isnan().all()


def test_strided_and_expanded_inputs(make_case):
    case = make_case(images=1)
    expected = case.out_and_gradients(kernels)
    padded = [torch.nn.functional.pad(x, (1, 2)) for x in (case[0], case[2], case[3])]
    strided = [x[..., 1:-2] for x in padded]
    assert not any(x.is_contiguous() for x in strided)
    torch.testing.assert_close(
        kernels(strided[0], case[1], strided[1], strided[2]), expected[0], rtol=0, atol=0
    )
    value, locations, weights = (x.clone().requires_grad_() for x in (case[0], case[2], case[3]))
    out = kernels(
        value.expand(2, -1, -1, -1),
        case.spatial_shapes,
        locations.expand(2, *locations.shape[1:]),
        weights.expand(2, *weights.shape[1:]),
    )
    torch.testing.assert_close(out, expected[0].expand(2, -1, -1), rtol=0, atol=0)
    # A gradient that is itself expanded, as sum() makes it.
    out.sum().backward()
    single = case.with_gradients()
    kernels(*single).sum().backward()
    torch.testing.assert_close(value.grad, 2 * single.value.grad)
    torch.testing.assert_close(locations.grad, 2 * single.sampling_locations.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_value_with_full_precision_locations(make_case, dtype):
    case = make_case(queries=67)
    case = case._replace(
        value=case.value.to(dtype), attention_weights=case.attention_weights.to(dtype)
    )
    results = case.out_and_gradients(kernels)
    assert [x.dtype for x in results] == [dtype, dtype, torch.float32, dtype]
    exact = case.like(torch.float64).out_and_gradients(ms_deform_attn_reference)
    for name, one, truth in zip(NAMES, results, exact, strict=True):
        # grad_locations is kept in float32; only the incoming gradient was rounded.
        assert relative_error(one, truth) <= torch.finfo(dtype).eps, name


def test_bitwise_the_same_for_any_number_of_threads(make_case, restore_threads):
    case = make_case([(20, 30), (10, 15)], queries=900, heads=4)
    torch.set_num_threads(1)
    expected = case.out_and_gradients(kernels)
    for threads in (2, 3, 2, 5):
        torch.set_num_threads(threads)
        for one, other in zip(case.out_and_gradients(kernels), expected, strict=True):
            assert torch.equal(one, other)


def test_concurrent_callers(make_case, restore_threads):
    torch.set_num_threads(2)
    case = make_case([(20, 30), (10, 15)], queries=900, heads=4)
    expected = case.out_and_gradients(kernels)
    agreements = []

    def work():
        results = case.out_and_gradients(kernels)
        agreements.append(all(torch.equal(x, y) for x, y in zip(results, expected, strict=True)))

    callers = [threading.Thread(target=work) for _ in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert agreements == [True] * 6


def _in_child(case, expected, queue):
    # PyTorch's own parallel loops hang in a forked child, so none of them may run here.
    torch.use_deterministic_algorithms(False)
    queue.put((kernels(*case).numpy() == expected).all())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_after_fork(make_case, restore_threads):
    torch.set_num_threads(2)
    case = make_case([(20, 30), (10, 15)], queries=900, heads=4)
    expected = kernels(*case).numpy()
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_in_child, args=(case, expected, queue))
    child.start()
    child.join(30)
    child.kill()
    assert child.exitcode == 0, "the child hung" if child.exitcode is None else "the child failed"
    assert queue.get()


CALL = """
import sys, torch, warnings
warnings.simplefilter("error")
from saccade.ops import ms_deform_attn
assert "numba" not in sys.modules
out = ms_deform_attn(
    torch.ones(1, 4, 1, 3), [(2, 2)], torch.full((1, 1, 1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 1, 1)
)
assert out.tolist() == [[[1, 1, 1]]]
assert "torch._dynamo" not in sys.modules  # takes seconds to import
from saccade.ops.ms_deform_attn import cpu
from saccade.ops.ms_deform_attn.cpu_forward import forward_kernel
import numpy
stats = forward_kernel(numpy.float32, 3, 0, cpu._block(1)).stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def call_in_new_process(cache):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", CALL], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_no_folder_to_cache_in_is_no_error(monkeypatch):
    def refuse(locator):
        raise OSError("read-only file system")

    monkeypatch.setattr(numba.core.caching._CacheLocator, "ensure_cache_path", refuse)
    with pytest.raises(RuntimeError, match="no locator available"):
        numba.njit(cache=True)(relative_error)
    kernel = cpu_compile.compiled(lambda numbers: numbers.fill(3))
    numbers = numpy.zeros(2)
    kernel(numbers)
    assert numbers.tolist() == [3, 3]


def test_a_change_of_shared_code_changes_what_the_cache_is_looked_up_by(monkeypatch):
    before = cpu_compile.sources()
    assert cpu_compile.sources() == before
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"changed")
    assert cpu_compile.sources.__wrapped__() != before


@pytest.mark.slow
def test_the_next_process_finds_the_compiled_kernel(tmp_path):
    assert call_in_new_process(tmp_path) == ["0", "1"]
    assert call_in_new_process(tmp_path) == ["1", "0"]
