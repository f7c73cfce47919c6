"""Frozen norms within convolutions: the same numbers, gradients, names and flags as beside them."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from saccade.config_parts import BackboneConfig
from saccade.model import backbone as backbone_module
from saccade.model.backbone import Backbone
from saccade.model.deformable_convolution import DeformableConv2d
from saccade.model.folded_norms import FoldedConvolution, FoldedNorm, fold_norms

PLAIN = BackboneConfig(name="resnet18", levels=(3, 4), num_frozen_stages=2)
BOTTLENECKS = replace(PLAIN, name="resnet26", levels=(3,), num_frozen_stages=0)


def shaken(backbone: Backbone) -> Backbone:
    """Random statistics, so that no norm does nothing."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for module in backbone.modules():
            if isinstance(module, FrozenBatchNorm2d):
                for buffer in (module.weight, module.running_var):
                    buffer.uniform_(0.5, 1.5, generator=generator)
                for buffer in (module.bias, module.running_mean):
                    buffer.uniform_(-0.5, 0.5, generator=generator)
    return backbone.eval()


def folded_and_not(
    config: BackboneConfig, monkeypatch: pytest.MonkeyPatch
) -> tuple[Backbone, Backbone]:
    """With the same weights."""
    torch.manual_seed(0)
    folded = shaken(Backbone(config))
    with monkeypatch.context() as patch:
        patch.setattr(backbone_module, "fold_norms", lambda body: None)
        plain = Backbone(config).eval()
    assert not any(isinstance(module, FoldedConvolution) for module in plain.modules())
    # Strictly: no name is missing and none is new.
    plain.load_state_dict(folded.state_dict())
    return folded, plain


def picture() -> Tensor:
    return torch.randn(2, 3, 72, 59, generator=torch.Generator().manual_seed(1))


def gradients(backbone: Backbone) -> dict[str, Tensor]:
    sum(map_.square().mean() for map_ in backbone(picture())).backward()
    return {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("config", [PLAIN, BOTTLENECKS], ids=["basic", "bottleneck"])
def test_maps_and_gradients_are_those_of_norms_of_their_own(
    config: BackboneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folded, plain = folded_and_not(config, monkeypatch)
    norms = [m for m in folded.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert norms
    assert all(isinstance(norm, FoldedNorm) for norm in norms)
    for ours, expected in zip(folded(picture()), plain(picture()), strict=True):
        assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert ours.is_contiguous(memory_format=torch.channels_last)
    ours, expected = gradients(folded), gradients(plain)
    assert ours.keys() == expected.keys()
    assert ours
    for name, gradient in expected.items():
        assert (ours[name] - gradient).abs().max() <= 1e-4 * gradient.abs().max(), name


def test_names_order_and_freezing_are_those_of_norms_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folded, plain = folded_and_not(PLAIN, monkeypatch)
    assert list(folded.state_dict()) == list(plain.state_dict())
    flags, expected = (
        {name: each.requires_grad for name, each in backbone.named_parameters()}
        for backbone in (folded, plain)
    )
    assert flags == expected
    assert set(flags.values()) == {False, True}


def test_weights_that_are_folded_keep_their_channels_innermost() -> None:
    folded = Backbone(PLAIN)
    for module in folded.modules():
        if isinstance(module, FoldedConvolution):
            factor, _ = module.norms[0].constants()
            product = module.weight * factor[:, None, None, None]
            assert product.stride() == module.weight.stride()


def test_a_copy_has_norms_of_its_own() -> None:
    torch.manual_seed(0)
    folded = shaken(Backbone(PLAIN))
    before = [map_.clone() for map_ in folded(picture())]
    twin = copy.deepcopy(folded)
    known = set(map(id, twin.modules()))
    for module in twin.modules():
        if isinstance(module, FoldedConvolution):
            assert id(module.norms[0]) in known
        if isinstance(module, FoldedNorm):
            module.weight.mul_(2)
    assert all(torch.equal(*maps) for maps in zip(folded(picture()), before, strict=True))
    assert not torch.equal(twin(picture())[0], before[0])


def test_statistics_that_are_loaded_or_moved_are_used() -> None:
    torch.manual_seed(0)
    folded = shaken(Backbone(PLAIN))
    other = Backbone(PLAIN).eval()
    for assign in (False, True):
        state = {name: each.clone() for name, each in folded.state_dict().items()}
        other.load_state_dict(state, assign=assign)
        assert torch.equal(other(picture())[0], folded(picture())[0])
    doubles = other.double()(picture().double())[0]
    torch.testing.assert_close(doubles.float(), folded(picture())[0], rtol=1e-4, atol=1e-4)


def test_deformable_convolutions_and_norms_that_train_are_left_alone() -> None:
    deformable = Backbone(replace(PLAIN, deformable_levels=(4,)))
    last = deformable.body.layer3
    assert isinstance(last[1].conv1, DeformableConv2d)
    assert not isinstance(last[1].bn1, FoldedNorm)
    assert isinstance(deformable.body.layer2[1].bn1, FoldedNorm)
    # Of a stage that is not deformable the norms are folded, those of its shortcut too.
    assert isinstance(deformable.body.layer2[0].downsample[1], FoldedNorm)
    trained = Backbone(replace(PLAIN, norm="trained", num_frozen_stages=0))
    assert not any(isinstance(m, FoldedNorm | FoldedConvolution) for m in trained.modules())


def test_a_convolution_with_a_bias_is_left_alone() -> None:
    body = nn.Module()
    body.conv1, body.bn1 = nn.Conv2d(3, 4, 1), FrozenBatchNorm2d(4)
    fold_norms(body)
    assert type(body.conv1) is nn.Conv2d
    assert type(body.bn1) is FrozenBatchNorm2d
