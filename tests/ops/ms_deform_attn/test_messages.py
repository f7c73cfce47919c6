"""Shapes that are refused, and the sentence: the value, what is expected, the remedy."""

import re

import pytest
import torch

from .forms import FORMS, FusedCase, call, random_case

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

NUMBERS = (
    "but [B, Q, M, K, 2] = [2, 5, 3, 8, 2] is expected; B and M are those of value [2, 8, 3, 4], "
    "K = 4 + 4 = 8 counts points_per_level."
)
REFERENCES = (
    "but [B, Q, L, 2 or 4] = [2, 5, 2 or 1, 2 or 4] is expected; repeat a reference for every "
    "level by reference_points[:, :, None]."
)
LOGITS = "but [B, Q, M, K] = [2, 5, 3, 8] is expected, one for each of sampling_offsets."


def case_of(form):
    return random_case(form, [(2, 3), (1, 2)], queries=5, heads=3)


@pytest.mark.parametrize("form", FORMS)
def test_the_case_without_mistakes_is_accepted(form):
    assert call(case_of(form), "reference").shape == (2, 5, 12)


@pytest.mark.parametrize(
    ("argument", "shape", "message"),
    [
        (
            "value",
            (2, 8, 12),
            "but 4 dimensions [B, S, M, D] are expected; split its channels into heads, "
            "value.unflatten(-1, (M, D)).",
        ),
        (
            "sampling_locations",
            (2, 5, 3, 8, 2),
            "but [B, Q, M, L, P, 2] is expected; the last dimension is (x, y).",
        ),
        (
            "sampling_locations",
            (2, 5, 3, 1, 4, 2),
            "but [B, Q, M, L, P, 2] = [2, 5, 3, 2, 4, 2] is expected; B and M are those of value "
            "[2, 8, 3, 4], L = 2 counts spatial_shapes.",
        ),
        (
            "attention_weights",
            (2, 5, 3, 8),
            "but [B, Q, M, L, P] = [2, 5, 3, 2, 4] is expected, one weight for each sampling "
            "location; unflatten the softmax over L*P into (L, P).",
        ),
        ("reference_points", (2, 5, 2), REFERENCES),
        ("reference_points", (2, 5, 2, 3), REFERENCES),
        ("reference_points", (2, 5, 3, 2), REFERENCES),
        ("reference_points", (1, 5, 2, 2), REFERENCES),
        ("reference_points", (2, 4, 2, 4), REFERENCES),
        (
            "sampling_offsets",
            (2, 5, 3, 2, 4, 2),
            "but [B, Q, M, K, 2] is expected; flatten levels and points into K, the last dimension "
            "is (x, y).",
        ),
        (
            "sampling_offsets",
            (2, 5, 3, 8, 3),
            "but [B, Q, M, K, 2] is expected; flatten levels and points into K, the last dimension "
            "is (x, y).",
        ),
        ("sampling_offsets", (1, 5, 3, 8, 2), NUMBERS),
        ("sampling_offsets", (2, 5, 2, 8, 2), NUMBERS),
        ("sampling_offsets", (2, 5, 3, 7, 2), NUMBERS),
        ("attention_logits", (2, 5, 3, 7), LOGITS),
        ("attention_logits", (2, 4, 3, 8), LOGITS),
        ("attention_logits", (2, 5, 3, 2, 4), LOGITS),
    ],
)
def test_a_wrong_shape(argument, shape, message):
    form = "plain" if argument in case_of("plain")._fields else "fused"
    case = case_of(form)._replace(**{argument: torch.zeros(shape)})
    expected = f"{argument} has shape {list(shape)} {message}"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        call(case)


@pytest.mark.parametrize("form", FORMS)
def test_tokens_that_are_not_those_of_the_maps(form):
    case = case_of(form)._replace(spatial_shapes=[(2, 3), (1, 1)])
    expected = (
        "value has 8 tokens but spatial_shapes describe 2x3 + 1x1 = 7; pass (height, width) of "
        "the maps you flattened, in that order."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        call(case)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "shapes",
    [
        [(10, 3), (-11, 2)],  # as many tokens as the value has, were the first map not larger
        [(-2, -3), (1, 2)],
        [(2, 3, 1), (1, 2, 1)],
        [2, 3, 1, 2],
        torch.tensor([2, 3, 1, 2]),
        torch.tensor([[2, 3, 1], [1, 2, 1]]),
    ],
    ids=str,
)
def test_maps_that_have_no_height_and_width(form, shapes):
    with pytest.raises(ValueError, match=r"^spatial_shapes .* expected"):
        call(case_of(form)._replace(spatial_shapes=shapes), "reference")


@pytest.mark.parametrize("kind", FORMS[1:])
@pytest.mark.parametrize(
    ("points", "message"),
    [
        (
            [8],
            "points_per_level is [8] but 2 numbers of at least 0 are expected, one for each of "
            "spatial_shapes.",
        ),
        (
            (4, 4, 0),
            "points_per_level is [4, 4, 0] but 2 numbers of at least 0 are expected, one for each "
            "of spatial_shapes.",
        ),
        (
            [9, -1],
            "points_per_level is [9, -1] but 2 numbers of at least 0 are expected, one for each of "
            "spatial_shapes.",
        ),
        (
            [4, 3],
            "sampling_offsets has shape [2, 5, 3, 8, 2] but [B, Q, M, K, 2] = [2, 5, 3, 7, 2] is "
            "expected; B and M are those of value [2, 8, 3, 4], K = 4 + 3 = 7 counts "
            "points_per_level.",
        ),
    ],
    ids=str,
)
def test_points_that_do_not_fit(kind, points, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call(case_of(kind)._replace(points_per_level=points))


def test_points_that_no_default_can_share_out():
    case = case_of("fused")._replace(
        points_per_level=None,
        sampling_offsets=torch.zeros(2, 5, 3, 7, 2),
        attention_logits=torch.zeros(2, 5, 3, 7),
    )
    expected = (
        "sampling_offsets has shape [2, 5, 3, 7, 2], whose K = 7 points are not a multiple of "
        "2 levels; say how many belong to each in points_per_level."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        call(case)


@pytest.mark.parametrize("kind", FORMS[1:])
def test_a_reference_for_every_level_is_what_the_remedy_makes(kind):
    case = case_of(kind)
    flat = case.reference_points[:, :, 0]
    with pytest.raises(ValueError, match=r"reference_points\[:, :, None\]\.$"):
        call(case._replace(reference_points=flat))
    mended = case._replace(reference_points=flat[:, :, None])
    assert isinstance(mended, FusedCase)
    assert call(mended, "reference").shape == (2, 5, 12)
