import pytest
import torch
from torch import Tensor
from torchvision.ops import deform_conv2d

from saccade.export.attention import attention_by_grid_sample
from saccade.export.bags import attention_by_bags
from saccade.export.convolution import convolution_by_grid_sample
from saccade.export.program import Operator
from saccade.ops import ms_deform_attn_fused_reference

SIDES = [5, 7, 3, 4]


def arguments(references: int, points: list[int]) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    value = torch.randn(2, 5 * 7 + 3 * 4, 3, 4)
    offsets = 3 * torch.randn(2, 6, 3, sum(points), 2)
    logits = torch.randn(2, 6, 3, sum(points))
    return value, torch.rand(2, 6, 2, references), offsets, logits


@pytest.mark.parametrize("attention", [attention_by_grid_sample, attention_by_bags])
@pytest.mark.parametrize("references", [2, 4])
@pytest.mark.parametrize("points", [[2, 2], [3, 1], [0, 2]])
def test_attention_is_the_operators(
    attention: Operator, references: int, points: list[int]
) -> None:
    value, centres, offsets, logits = arguments(references, points)
    expected = ms_deform_attn_fused_reference(
        value, [(5, 7), (3, 4)], centres, offsets, logits, points, 0.7
    )
    found = attention(value, SIDES, points, centres, offsets, logits, 0.7, "cpu")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("attention", [attention_by_grid_sample, attention_by_bags])
def test_samples_at_the_edges_read_zeros_outside(attention: Operator) -> None:
    value, centres, offsets, logits = arguments(2, [2, 2])
    centres = centres.round()
    offsets = offsets.round() / 2
    expected = ms_deform_attn_fused_reference(
        value, [(5, 7), (3, 4)], centres, offsets, logits, [2, 2]
    )
    found = attention(value, SIDES, [2, 2], centres, offsets, logits, 0.5, "cpu")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("modulated", [True, False])
@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 2), (1, 2, 1)])
def test_deformable_convolution_is_torchvisions(
    modulated: bool, stride: int, dilation: int, groups: int
) -> None:
    torch.manual_seed(0)
    image, weight, bias = (
        torch.randn(2, 4, 9, 11),
        torch.randn(6, 4 // groups, 3, 3),
        torch.randn(6),
    )
    places = torch.nn.functional.conv2d(
        image, torch.randn(18, 4, 3, 3), stride=stride, padding=dilation, dilation=dilation
    )
    mask = torch.rand(2, 9, *places.shape[2:])
    expected = deform_conv2d(
        image, places, weight, bias, stride, dilation, dilation, mask if modulated else None
    )
    found = convolution_by_grid_sample(
        image, weight, places, mask, bias,
        stride, stride, dilation, dilation, dilation, dilation, groups, 1, modulated,
    )  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-4)
