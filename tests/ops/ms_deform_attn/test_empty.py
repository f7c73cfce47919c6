"""Nothing to sample, or nothing to sample it with: sums of nothing, which are zeros."""

import pytest
import torch

from .forms import (
    FORMS,
    assert_same,
    case_without_levels,
    every_backend,
    every_form,
    exact_results,
    random_case,
    results,
    tensors,
)


def assert_zeros(case, backend, out_shape):
    ours = results(case, backend)
    assert ours.pop("out").shape == out_shape
    for name, x in tensors(case).items():
        assert torch.equal(ours[name], torch.zeros_like(x)), name


@every_form
@every_backend
@pytest.mark.parametrize("empty", ["images", "queries", "heads", "channels", "points"])
def test_nothing_in_gives_nothing_out(form, backend, empty):
    sizes = {"images": 2, "queries": 7, "heads": 2, "channels": 4, "points": 3} | {empty: 0}
    case = random_case(form, **sizes)
    width = sizes["heads"] * sizes["channels"]
    assert_zeros(case, backend, (sizes["images"], sizes["queries"], width))
    assert not results(case, backend)["out"].any()


@every_form
@every_backend
def test_a_level_without_tokens_gives_nothing(form, backend):
    case = random_case(form, [(3, 4), (0, 5)])
    ours = results(case, backend)
    assert ours["out"].any()
    assert all(x.isfinite().all() for x in ours.values())
    assert_same(ours, exact_results(case), rtol=1e-4, atol=1e-4)


@every_form
@every_backend
@pytest.mark.parametrize("shapes", [[(0, 0)], [(0, 5), (3, 0)]], ids=str)
def test_maps_without_any_token_give_nothing(form, backend, shapes):
    case = random_case(form, shapes)
    assert case.value.shape[1] == 0
    assert_zeros(case, backend, (2, 7, 8))
    assert not results(case, backend)["out"].any()


@every_form
@every_backend
def test_no_levels_give_nothing(form, backend):
    case = case_without_levels(form)
    assert_zeros(case, backend, (2, 7, 8))
    assert not results(case, backend)["out"].any()


@every_backend
@pytest.mark.parametrize("form", FORMS[1:])
@pytest.mark.parametrize("points", [None, []], ids=str)
def test_no_levels_need_no_points_and_share_one_reference(form, backend, points):
    case = case_without_levels(form, references=1)._replace(points_per_level=points)
    assert_zeros(case, backend, (2, 7, 8))
    assert not results(case, backend)["out"].any()
