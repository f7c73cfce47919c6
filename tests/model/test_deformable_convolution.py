import copy

import pytest
import timm
import torch
from torch import nn

from saccade.model.deformable_convolution import DeformableConv2d, replace_convolutions

GEOMETRIES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2, "groups": 4, "bias": False},
    {"kernel_size": (3, 5), "padding": (2, 1), "dilation": (2, 1), "stride": (1, 2)},
    {"kernel_size": 1, "groups": 2},
]


def convolution(**geometry: object) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(8, 12, **geometry)


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_it_starts_as_the_plain_convolution(geometry: dict[str, object], modulated: bool) -> None:
    plain = convolution(**geometry)
    deformable = DeformableConv2d(copy.deepcopy(plain), modulated)
    results = []
    for layer in (plain, deformable):
        maps = torch.randn(2, 8, 7, 9, generator=torch.Generator().manual_seed(1))
        maps.requires_grad_()
        output = layer(maps)
        output.square().sum().backward()
        results.append([output, maps.grad, layer.weight.grad])
        if layer.bias is not None:
            results[-1].append(layer.bias.grad)
    for ours, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    assert deformable.sampling_offsets.weight.grad.any()


def test_an_offset_moves_the_sample() -> None:
    """Dai et al. 2017, equation 2, on a kernel of one sample: y before x."""
    plain = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(plain.weight)
    deformable = DeformableConv2d(plain, modulated=False)
    maps = torch.arange(12.0).view(1, 1, 3, 4)
    with torch.no_grad():
        deformable.sampling_offsets.bias.copy_(torch.tensor([1.0, 0.5]))
        moved = deformable(maps)
    assert moved[0, 0, 0].tolist() == [4.5, 5.5, 6.5, 3.5]
    assert moved[0, 0, 2].tolist() == [0.0, 0.0, 0.0, 0.0]


def test_modulation_weighs_each_sample_from_zero_to_two() -> None:
    deformable = DeformableConv2d(convolution(kernel_size=3, padding=1, bias=False))
    maps = torch.randn(1, 8, 5, 5)
    with torch.no_grad():
        plain = deformable(maps)
        deformable.sampling_offsets.bias[18:] = 30.0
        torch.testing.assert_close(deformable(maps), 2 * plain)
        deformable.sampling_offsets.bias[18:] = -30.0
        torch.testing.assert_close(deformable(maps), torch.zeros_like(plain))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_stay_what_they_are(dtype: torch.dtype) -> None:
    deformable = DeformableConv2d(convolution(kernel_size=3, padding=1).to(dtype))
    output = deformable(torch.randn(1, 8, 5, 5, dtype=dtype))
    assert output.dtype == dtype
    assert output.isfinite().all()


def test_it_trains_under_autocast() -> None:
    deformable = DeformableConv2d(convolution(kernel_size=3, padding=1))
    maps = torch.randn(1, 8, 5, 5)
    plain = deformable(maps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = deformable(maps)
    output.float().sum().backward()
    torch.testing.assert_close(output.float(), plain, atol=0.05, rtol=0.05)
    assert deformable.sampling_offsets.weight.grad.isfinite().all()


@pytest.mark.parametrize("geometry", [{"padding": "same"}, {"padding_mode": "reflect"}])
def test_other_paddings_are_refused(geometry: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="deformable convolutions pad with zeros; give the"):
        DeformableConv2d(convolution(kernel_size=3, **geometry))


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_a_network_starts_as_the_plain_one(name: str, modulated: bool) -> None:
    torch.manual_seed(0)
    # timm zeroes the last norm of a block, which would hide its convolutions.
    options = {"features_only": True, "pretrained": False, "zero_init_last": False}
    plain = timm.create_model(name, **options).eval().double()
    network = copy.deepcopy(plain)
    replaced = replace_convolutions(network, ["layer3", "layer4"], modulated)
    assert len(replaced) == {"resnet18": 8, "resnext50_32x4d": 9}[name]
    results = []
    for body in (plain, network):
        images = torch.randn(1, 3, 64, 32, generator=torch.Generator().manual_seed(1))
        maps = body(images.double())
        (maps[-1].sum() + maps[-2].sum()).backward()
        results.append((maps, {key: p.grad for key, p in body.named_parameters()}))
    (expected_maps, expected), (maps, found) = results
    for ours, theirs in zip(maps, expected_maps, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)
    for key, gradient in expected.items():
        assert gradient.any(), key
        assert (found[key] - gradient).abs().max() <= 1e-9 * gradient.abs().max(), key


def test_plain_weights_keep_their_names() -> None:
    plain = timm.create_model("resnet18", features_only=True, pretrained=False)
    network = timm.create_model("resnet18", features_only=True, pretrained=False)
    replaced = replace_convolutions(network, ["layer4"])
    missing, unexpected = network.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    assert missing == [
        f"{name}.sampling_offsets.{part}" for name in replaced for part in ("weight", "bias")
    ]


def test_what_cannot_be_replaced_is_said() -> None:
    body = timm.create_model("convnext_atto", features_only=True, pretrained=False)
    with pytest.raises(ValueError, match='stage "stages_2" has no 3x3 convolution'):
        replace_convolutions(body, ["stages_2"])
    with pytest.raises(ValueError, match='no module "layer3": expected one of stem_0'):
        replace_convolutions(body, ["layer3"])
