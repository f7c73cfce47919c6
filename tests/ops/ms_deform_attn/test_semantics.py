"""Both forms on both backends against an oracle that shares nothing with the library."""

import pytest
import torch

from .forms import (
    FORMS,
    assert_same,
    every_backend,
    every_form,
    exact_results,
    express,
    random_case,
    replaced,
    results,
    tensors,
)

NAN, INF = float("nan"), float("inf")


@every_form
def test_the_oracle_agrees_with_its_own_finite_differences(form):
    case = random_case(form, [(3, 4), (2, 3)], images=1, queries=3, points=2, dtype=torch.float64)
    exact = exact_results(case)
    out = exact.pop("out")
    upstream = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).cos().view(out.shape)
    generator = torch.Generator().manual_seed(2)
    for name, gradient in exact.items():
        along = torch.randn(gradient.shape, generator=generator, dtype=torch.float64) * 1e-6
        ahead, behind = (
            exact_results(case._replace(**{name: getattr(case, name) + sign * along}))["out"]
            for sign in (1, -1)
        )
        measured = ((ahead - behind) * upstream).sum().item()
        assert measured == pytest.approx(2 * (gradient * along).sum().item(), rel=1e-6), name


@every_form
@every_backend
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"shapes": [(7, 9)]},
        {"points": 1},
        {"shapes": [(5, 4)], "points": 1},
        {"shapes": [(1, 1)], "points": 1, "heads": 1, "images": 1, "queries": 1},
        {"shapes": [(1, 6), (6, 1), (2, 2)], "points": 4},  # 12 samples
        {"shapes": [(4, 6), (2, 3), (1, 2)], "points": 6},  # 18
        {"shapes": [(4, 6), (3, 4), (2, 3), (1, 2)], "points": 5},  # 20
        {"margin": 3.0},  # most samples outside
        {"channels": 7},
    ],
    ids=str,
)
def test_equals_eq_3_in_double_precision(form, backend, sizes):
    case = random_case(form, dtype=torch.float64, **sizes)
    assert_same(results(case, backend), exact_results(case), rtol=1e-10, atol=1e-11)


@every_form
@pytest.mark.parametrize("channels", [1, 30, 64, 71, 100])
def test_the_reference_takes_any_number_of_channels(form, channels):
    # Kernels are compiled for each; test_fused.py and test_cpu.py hold them to the reference.
    case = random_case(form, channels=channels, queries=3)
    assert_same(results(case, "reference"), exact_results(case), rtol=1e-4, atol=1e-4)


@every_form
@every_backend
def test_samples_on_and_beside_centres_and_borders(form, backend):
    # Sides and fractions are powers of two, so the kinks are hit exactly, in single precision too.
    shapes = [(4, 8), (8, 4)]
    queries = []
    for height, width in shapes:
        columns, rows = (
            torch.tensor([*range(-3, 4), *range(2 * side - 5, 2 * side + 2)]) / 2
            for side in (width, height)
        )
        pixels = torch.cartesian_prod(columns, rows)
        queries.append((pixels + 0.5) / torch.tensor([width, height]))
    locations = torch.stack(queries, 1)[None, :, None]
    assert locations.shape == (1, 14 * 14, 1, 2, 2)
    generator = torch.Generator().manual_seed(3)
    value = torch.randn(1, 64, 1, 4, generator=generator)
    logits = torch.randn(1, 14 * 14, 1, 2, generator=generator)
    case = express(form, value, shapes, [1, 1], locations, logits)
    assert_same(results(case, backend), exact_results(case), rtol=1e-5, atol=1e-5)


def spoiled(case, number):
    """The case with ``number`` in some, not all, samples of queries 0 to 2 and image 1.

    Query 0 has it in x, query 1 in y and query 2 in both.
    """
    name = "sampling_locations" if "sampling_locations" in case._fields else "sampling_offsets"
    places = getattr(case, name).clone()
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
@pytest.mark.parametrize("form", FORMS[1:])
def test_a_logit_of_minus_infinity_weighs_nothing(form, backend):
    case = random_case(form)
    case.attention_logits[0, 2, 1, ::2] = -INF
    case.attention_logits[1, 4, :, 1:] = -INF  # all but one
    ours = results(case, backend)
    assert (ours["attention_logits"][0, 2, 1, ::2] == 0).all()
    assert (ours["sampling_offsets"][0, 2, 1, ::2] == 0).all()
    assert all(x.isfinite().all() for x in ours.values())
    assert_same(ours, exact_results(case), rtol=1e-4, atol=1e-4)


@every_backend
@pytest.mark.parametrize("form", FORMS[1:])
@pytest.mark.parametrize("number", [-INF, NAN])
def test_logits_without_a_softmax_spoil_only_their_query_and_head(form, backend, number):
    case = random_case(form, margin=0.0)
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
def test_a_level_without_tokens_gives_nothing(form, backend):
    case = random_case(form, [(3, 4), (0, 5)])
    ours = results(case, backend)
    assert ours["out"].any()
    assert all(x.isfinite().all() for x in ours.values())
    assert_same(ours, exact_results(case), rtol=1e-4, atol=1e-4)


@every_form
@every_backend
@pytest.mark.parametrize("empty", ["images", "queries", "heads", "channels", "points"])
def test_nothing_in_gives_nothing_out(form, backend, empty):
    case = random_case(form, **{empty: 0})
    ours = results(case, backend)
    assert {name: x.shape for name, x in ours.items() if name != "out"} == {
        name: x.shape for name, x in tensors(case).items()
    }
    sizes = {"images": 2, "queries": 7, "heads": 2, "channels": 4} | {empty: 0}
    assert ours["out"].shape == (
        sizes["images"],
        sizes["queries"],
        sizes["heads"] * sizes["channels"],
    )
    assert all((x == 0).all() for x in ours.values())


@every_form
def test_the_comparison_sees_a_small_difference(form):
    case = random_case(form)
    moved = replaced(case, lambda x: x + 0.001)
    with pytest.raises(AssertionError, match=r"^out: "):
        assert_same(results(moved, "reference"), exact_results(case), rtol=1e-4, atol=1e-4)
