"""Numbers that are not finite, in any argument and in the gradient that comes from the loss."""

import pytest
import torch

from .conftest import Case
from .forms import (
    assert_same,
    call,
    every_backend,
    every_form,
    every_kind,
    exact_results,
    express,
    leaves_of,
    random_case,
    results,
    tensors,
    upstream_of,
)

NAN, INF = float("nan"), float("inf")


def places_of(case):
    """Which argument says where to sample, and that argument."""
    name = "sampling_locations" if isinstance(case, Case) else "sampling_offsets"
    return name, getattr(case, name)


def spoiled(case, number):
    """The case with ``number`` in some, not all, samples of queries 0 to 2 and image 1.

    Query 0 has it in x, query 1 in y and query 2 in both.
    """
    name, places = places_of(case)
    places = places.clone()
    chosen = places.flatten(3, -2)
    chosen[1, 0, :, ::3, 0] = number
    chosen[1, 1, 0, 1::2, 1] = number
    chosen[1, 2, :, 2:5] = number
    spoilt = ~torch.isfinite(chosen) | (chosen.abs() > 1e20)
    return case._replace(**{name: chosen.view(places.shape)}), name, spoilt.any(-1)


@every_form
@every_backend
@pytest.mark.parametrize("number", [NAN, INF, -INF, 1e30, -1e30])
def test_a_sample_that_is_nowhere_gives_nothing_and_harms_no_other(form, backend, number):
    case, name, spoilt = spoiled(random_case(form), number)
    ours = results(case, backend)
    gradient = ours[name].flatten(3, -2)
    assert spoilt.any()
    assert (gradient[spoilt] == 0).all()
    assert (gradient[~spoilt] != 0).any()
    assert all(x.isfinite().all() for x in ours.values())
    assert_same(ours, exact_results(case), rtol=1e-4, atol=1e-4)


@every_backend
@pytest.mark.parametrize("number", [NAN, INF, -INF])
@pytest.mark.parametrize("coordinate", [0, 1, 2, 3])
def test_a_reference_that_is_not_finite_silences_its_level_of_its_query(
    backend, number, coordinate
):
    case = random_case("fused-boxes")
    case.reference_points[0, 3, 1, coordinate] = number
    case.reference_points[1, 5, 0, coordinate] = number
    ours = results(case, backend)
    assert (ours["reference_points"][0, 3, 1] == 0).all()
    assert (ours["reference_points"][1, 5, 0] == 0).all()
    assert (ours["sampling_offsets"][0, 3, :, 4:] == 0).all()
    assert (ours["sampling_offsets"][0, 3, :, :4] != 0).any()
    assert all(x.isfinite().all() for x in ours.values())
    assert_same(ours, exact_results(case), rtol=1e-4, atol=1e-4)


@every_backend
@pytest.mark.parametrize("number", [NAN, INF, -INF])
def test_a_point_that_is_not_finite_silences_its_level_of_its_query(backend, number):
    case = random_case("fused")
    case.reference_points[0, 3, 1, 0] = number
    case.reference_points[1, 5, 0, 1] = number
    ours = results(case, backend)
    assert (ours["reference_points"][0, 3, 1] == 0).all()
    assert (ours["sampling_offsets"][1, 5, :, :4] == 0).all()
    assert (ours["sampling_offsets"][1, 5, :, 4:] != 0).any()
    assert all(x.isfinite().all() for x in ours.values())
    assert_same(ours, exact_results(case), rtol=1e-4, atol=1e-4)


@every_backend
@every_kind
def test_a_logit_of_minus_infinity_weighs_nothing(kind, backend):
    case = random_case(kind)
    case.attention_logits[0, 2, 1, ::2] = -INF
    case.attention_logits[1, 4, :, 1:] = -INF  # all but one
    ours = results(case, backend)
    assert (ours["attention_logits"][0, 2, 1, ::2] == 0).all()
    assert (ours["sampling_offsets"][0, 2, 1, ::2] == 0).all()
    assert all(x.isfinite().all() for x in ours.values())
    assert_same(ours, exact_results(case), rtol=1e-4, atol=1e-4)


@every_backend
@every_kind
@pytest.mark.parametrize("number", [-INF, NAN])
def test_logits_without_a_softmax_spoil_only_their_query_and_head(kind, backend, number):
    case = random_case(kind, margin=0.0)
    clean = results(case, backend)
    case.attention_logits[1, 4, 1] = number
    ours = results(case, backend)
    spoilt = torch.zeros(2, 7, 2, dtype=torch.bool)
    spoilt[1, 4, 1] = True
    for name in ("out", "sampling_offsets", "attention_logits"):
        one, other = (x[name].view(2, 7, 2, -1) for x in (ours, clean))
        assert torch.equal(one[~spoilt], other[~spoilt]), name
        if name != "sampling_offsets":
            assert one[spoilt].isnan().all(), name
    for name, kept in (("value", [1, slice(None), 1]), ("reference_points", [1, 4])):
        harmed = torch.zeros_like(ours[name], dtype=torch.bool)
        harmed[tuple(kept)] = True
        assert torch.equal(ours[name][~harmed], clean[name][~harmed]), name


@every_form
@every_backend
@pytest.mark.parametrize("poison", [NAN, INF])
def test_a_token_no_sample_touches_does_not_leak(form, backend, poison):
    generator = torch.Generator().manual_seed(0)
    # In columns 0 to 3 of 6, or right of the map, or nowhere: columns 4 and 5 stay unread.
    locations = torch.rand(1, 9, 2, 4, 2, generator=generator) * torch.tensor([0.5, 1.4])
    locations[:, ::3, :, :2, 0] = 1.5
    locations[:, 1::3, :, 1:, 1] = NAN
    locations[:, 2::3, :, 1, 0] = INF
    value = torch.randn(1, 36, 2, 4, generator=generator)
    logits = torch.randn(1, 9, 2, 4, generator=generator)
    case = express(form, value, [(6, 6)], [4], locations, logits)
    clean = results(case, backend)
    assert clean["out"].any()
    case.value.view(1, 6, 6, 2, 4)[:, :, 4:] = poison
    assert_same(results(case, backend), clean)


@every_form
@every_backend
def test_a_token_that_samples_touch_is_seen(form, backend):
    case = random_case(form, [(3, 3)], margin=0.0)
    case.value[1, :, 0] = NAN
    spoilt = torch.zeros(2, 7, 2, 4, dtype=torch.bool)
    spoilt[1, :, 0] = True
    assert torch.equal(call(case, backend).view(2, 7, 2, 4).isnan(), spoilt)


@every_form
@every_backend
@pytest.mark.parametrize("number", [NAN, INF])
@pytest.mark.parametrize("place", [NAN, INF, 7.0, 1e30])
def test_a_sample_that_touches_nothing_gets_no_gradient_from_a_broken_loss(
    form, backend, number, place
):
    # In image 1, queries 2 and 3 lose the sum that they are upstream of; all samples of query 2
    # and the first level's of query 3 are nowhere.
    case = random_case(form, margin=0.0)
    name, places = places_of(case)
    chosen = places.clone().flatten(3, -2)
    chosen[1, 2] = place if form == "plain" else place * 1000  # tokens or shares of boxes
    chosen[1, 3, :, :4] = chosen[1, 2, :, :4]
    leaves = leaves_of(case._replace(**{name: chosen.view(places.shape)}))
    out = call(leaves, backend)
    broken, mended = upstream_of(out), upstream_of(out)
    broken[1, 2:4], mended[1, 2:4] = number, 0
    parts = tensors(leaves)
    ours, clean = (
        dict(zip(parts, grads, strict=True))
        for grads in (
            torch.autograd.grad(out, list(parts.values()), upstream, retain_graph=True)
            for upstream in (broken, mended)
        )
    )
    gradient = ours[name].flatten(3, -2)
    assert (gradient[1, 2] == 0).all()
    assert (gradient[1, 3, :, :4] == 0).all()
    assert not gradient[1, 3, :, 4:].isfinite().any()  # these do touch the map
    if form != "plain":
        assert (ours["reference_points"][1, 2] == 0).all()
        assert (ours["reference_points"][1, 3, 0] == 0).all()
    # Query 3 harms the tokens of the second level, query 2 none.
    assert torch.equal(ours["value"][:, :63], clean["value"][:, :63])
    for part in [*parts][1:]:
        others = torch.ones(2, 7, dtype=torch.bool)
        others[1, 2:4] = False
        assert torch.equal(ours[part][others], clean[part][others]), part
