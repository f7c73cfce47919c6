"""What the comparison of two runs tells apart."""

import pytest
import torch

from .comparing import assert_equal

NORMS = {
    "backbone.weight": 1e3,
    "k_proj.bias": 1e-12,
    "attn.sampling_offsets.weight": 1e-4,
    "attn.output_proj.bias": 1e-4,
}


def gradients(**off: float) -> dict[str, torch.Tensor]:
    return {
        name: torch.tensor([norm * (1 + off.get(name.split(".")[-2], 0.0))], dtype=torch.float64)
        for name, norm in NORMS.items()
    }


@pytest.mark.parametrize("name", ["backbone", "sampling_offsets", "output_proj"])
def test_a_gradient_that_is_wrong_by_a_millionth_is_found(name: str) -> None:
    assert_equal(({}, gradients(**{name: 1e-10})), ({}, gradients()), 1e-9)
    with pytest.raises(AssertionError, match=name):
        assert_equal(({}, gradients(**{name: 1e-6})), ({}, gradients()), 1e-9)


def test_rounding_of_what_is_zero_is_no_difference() -> None:
    assert_equal(({}, gradients(k_proj=-2.0)), ({}, gradients()), 1e-9)


def test_an_operator_that_learns_nothing_is_found() -> None:
    still = gradients(sampling_offsets=-1.0)
    with pytest.raises(AssertionError, match="sampling_offsets"):
        assert_equal(({}, still), ({}, still), 1e-9)
