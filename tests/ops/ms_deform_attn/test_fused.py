"""The fused form: references, offsets and logits against the oracle and against its three steps."""

from functools import partial

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from saccade.ops import ms_deform_attn, ms_deform_attn_fused, ms_deform_attn_fused_reference

from .forms import (
    anywhere,
    assert_same,
    call,
    every_backend,
    every_kind,
    exact_results,
    in_steps,
    leaves_of,
    random_case,
    results,
    tensors,
)

PYRAMID = ((8, 12), (4, 6), (2, 3))


@every_kind
@every_backend
@pytest.mark.parametrize(
    "points", [[3, 6, 3], [1, 0, 2], [0, 0, 5], [2, 5, 11], [10, 9, 1], [1, 1, 1]], ids=str
)
def test_levels_may_have_different_numbers_of_points(kind, backend, points):
    case = anywhere(random_case(kind, PYRAMID, points=points, dtype=torch.float64))
    assert_same(results(case, backend), exact_results(case), rtol=1e-10, atol=1e-11)


@every_kind
@every_backend
def test_without_points_per_level_all_levels_have_as_many(kind, backend):
    case = random_case(kind, PYRAMID, points=4)
    unsaid = case._replace(points_per_level=None)
    assert_same(results(unsaid, backend), results(case, backend))


@every_kind
@every_backend
@pytest.mark.parametrize("points", [[4, 4, 4], [3, 6, 3]], ids=str)
@pytest.mark.parametrize("references", [1, 3])
def test_equals_softmax_then_locations_then_the_plain_form(kind, backend, points, references):
    case = anywhere(random_case(kind, PYRAMID, queries=67, points=points))
    case = case._replace(reference_points=case.reference_points[:, :, :references])
    attend = partial(ms_deform_attn, backend=backend)
    steps = results(case, function=partial(in_steps, attend=attend))
    assert_same(results(case, backend), steps, rtol=1e-4, atol=2e-5)


@every_kind
@every_backend
def test_one_reference_for_all_levels_is_that_reference_repeated(kind, backend):
    case = anywhere(random_case(kind, PYRAMID, points=[3, 6, 3]))
    one = case._replace(reference_points=case.reference_points[:, :, :1].contiguous())
    repeated = case._replace(reference_points=one.reference_points.repeat(1, 1, 3, 1))
    ours, expected = results(one, backend), results(repeated, backend)
    expected["reference_points"] = expected["reference_points"].sum(2, keepdim=True)
    others = [name for name in ours if name != "reference_points"]
    assert_same(ours, expected, parts=others)
    assert_same(ours, expected, rtol=1e-5, atol=1e-5)
    assert_same(ours, exact_results(one), rtol=1e-4, atol=1e-4)


@every_backend
@pytest.mark.parametrize(
    "box",
    [
        (0.3, 0.6, 0.0, 0.0),
        (0.3, 0.6, 0.0, 0.4),
        (0.3, 0.6, -0.5, -0.2),
        (0.3, 0.6, 3.0, 5.0),
        (-0.1, 1.2, 0.7, 0.9),
        (-7.0, 9.0, 0.1, 0.1),
    ],
    ids=str,
)
def test_boxes_of_any_size_and_place(backend, box):
    case = random_case("fused-boxes", PYRAMID, points=[2, 1, 3])
    generator = torch.Generator().manual_seed(6)
    jitter = torch.rand(*case.reference_points.shape[:-1], 2, generator=generator) * 0.05
    boxes = torch.tensor(box).repeat(*case.reference_points.shape[:-1], 1)
    boxes[..., :2] += jitter
    offsets = torch.randn(case.sampling_offsets.shape, generator=generator)
    case = case._replace(reference_points=boxes, sampling_offsets=offsets)
    assert_same(results(case, backend), exact_results(case), rtol=1e-4, atol=1e-4)


@every_backend
def test_a_box_without_area_samples_its_centre(backend):
    case = random_case("fused-boxes")
    boxes = case.reference_points.clone()
    boxes[..., 2:] = 0
    case = case._replace(reference_points=boxes)
    ours = results(case, backend)
    assert (ours["sampling_offsets"] == 0).all()
    assert (ours["reference_points"][..., 2:] != 0).any()
    still = case._replace(sampling_offsets=torch.zeros_like(case.sampling_offsets))
    assert torch.equal(ours["out"], call(still, backend))


@every_backend
@pytest.mark.parametrize("scale", [0.25, 1.5])
def test_the_box_scale_says_how_far_an_offset_of_its_points_reaches(backend, scale):
    case = anywhere(random_case("fused-boxes", PYRAMID, points=[3, 6, 3], dtype=torch.float64))
    scaled = case._replace(
        box_scale=scale, sampling_offsets=case.sampling_offsets * (case.box_scale / scale)
    )
    assert_same(results(scaled, backend), exact_results(scaled), rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(call(scaled, backend), call(case, backend))
    points = random_case("fused")
    assert torch.equal(call(points._replace(box_scale=scale), backend), call(points, backend))


@every_kind
@every_backend
def test_gradients_are_exact_in_double_precision(kind, backend):
    case, inputs = tiny_case(kind)

    def function(*leaves):
        return call(case._replace(**dict(zip(tensors(case), leaves, strict=True))), backend)

    assert gradcheck(function, inputs)


def tiny_case(kind):
    sizes = {"images": 1, "queries": 2, "heads": 1, "points": [1, 2], "dtype": torch.float64}
    case = leaves_of(anywhere(random_case(kind, [(3, 2), (2, 1)], **sizes)))
    return case, tuple(tensors(case).values())


@every_kind
def test_second_derivatives_of_the_reference(kind):
    case, inputs = tiny_case(kind)

    def function(*leaves):
        return call(case._replace(**dict(zip(tensors(case), leaves, strict=True))), "reference")

    assert gradgradcheck(function, inputs)


def test_shapes_may_be_a_tensor_and_the_points_any_sequence():
    case = random_case("fused", PYRAMID, points=[3, 6, 3])
    other = case._replace(
        spatial_shapes=torch.tensor(case.spatial_shapes), points_per_level=(3, 6, 3)
    )
    assert torch.equal(call(other), call(case))


@every_kind
def test_the_reference_takes_the_same_arguments(kind):
    case = random_case(kind, PYRAMID, points=[3, 6, 3])
    assert torch.equal(ms_deform_attn_fused_reference(*case), call(case, "reference"))


def test_arguments_have_the_names_of_the_papers():
    case = random_case("fused-boxes")
    assert torch.equal(ms_deform_attn_fused(**case._asdict(), backend="cpu"), call(case))
