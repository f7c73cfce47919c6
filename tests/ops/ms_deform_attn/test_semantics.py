"""Both forms on both backends against an oracle that shares nothing with the library."""

import pytest
import torch

from .forms import (
    assert_same,
    every_backend,
    every_form,
    exact_results,
    express,
    random_case,
    replaced,
    results,
)


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
    ],
    ids=str,
)
def test_equals_eq_3_in_double_precision(form, backend, sizes):
    case = random_case(form, dtype=torch.float64, **sizes)
    assert_same(results(case, backend), exact_results(case), rtol=1e-10, atol=1e-11)


@every_form
@pytest.mark.parametrize("channels", [1, 30, 64, 71, 100])
def test_the_reference_takes_any_number_of_channels(form, channels):
    # Kernels are compiled for each; test_cpu.py and test_fused_accuracy.py hold them to it.
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


@every_form
def test_the_comparison_sees_a_small_difference(form):
    case = random_case(form)
    moved = replaced(case, lambda x: x + 0.001)
    with pytest.raises(AssertionError, match=r"^out: "):
        assert_same(results(moved, "reference"), exact_results(case), rtol=1e-4, atol=1e-4)
