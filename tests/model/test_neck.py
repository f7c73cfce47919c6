import pytest
import torch
from torch import nn

from saccade.config_parts import NeckConfig
from saccade.model.neck import LevelProjection, make_neck
from saccade.model.pyramids import Fusion

CHANNELS = (8, 12, 16)
KINDS = ("projection", "fpn", "bifpn")
SIZES = [
    ((16, 24), (8, 12), (4, 6)),
    ((19, 13), (10, 7), (5, 4)),
    ((19, 13), (9, 6), (4, 3)),  # ConvNeXt rounds down
    ((9, 5), (5, 3), (5, 3)),  # a dilated C5
    ((1, 1), (1, 1), (1, 1)),
]


def maps(sizes: tuple[tuple[int, int], ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, channels, *size, generator=generator)
        for channels, size in zip(CHANNELS, sizes, strict=True)
    ]


def neck(kind: str, channels: tuple[int, ...] = CHANNELS, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return make_neck(NeckConfig(width=32, kind=kind, **options), channels)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("norm", ["group", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_levels_have_the_sizes_of_the_maps(
    kind: str, norm: str, sizes: tuple[tuple[int, int], ...]
) -> None:
    levels = neck(kind, norm=norm, num_extra_levels=2)(maps(sizes))
    halved = [tuple((side + 1) // 2 for side in sizes[-1])]
    halved.append(tuple((side + 1) // 2 for side in halved[0]))
    assert [tuple(level.shape) for level in levels] == [(2, 32, *s) for s in (*sizes, *halved)]


@pytest.mark.parametrize("num_maps", [2, 3])
@pytest.mark.parametrize("num_extra_levels", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind: str, num_extra_levels: int, num_maps: int) -> None:
    module = neck(kind, CHANNELS[:num_maps], num_extra_levels=num_extra_levels)
    levels = module(maps(SIZES[1])[:num_maps])
    sum((level * torch.randn_like(level)).sum() for level in levels).backward()
    assert [name for name, p in module.named_parameters() if not p.grad.any()] == []


def reach(module: nn.Module, source: int) -> list[bool]:
    """Which levels change with one of the maps."""
    features = maps(SIZES[0])
    with torch.no_grad():
        before = module(features)
        features[source] = features[source] + torch.randn_like(features[source])
        after = module(features)
    return [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]


def test_what_reaches_what() -> None:
    options = {"num_extra_levels": 0, "norm": "none"}
    assert reach(neck("projection", **options), 1) == [False, True, False]
    assert reach(neck("fpn", **options), 1) == [True, True, False]
    assert reach(neck("bifpn", num_rounds=1, **options), 1) == [True, True, True]


def test_a_feature_pyramid_adds_coarse_levels_to_fine_ones() -> None:
    """Lin et al. 2017, figure 3, written out for two levels."""
    module = neck("fpn", CHANNELS[:2], num_extra_levels=0)
    features = maps(SIZES[1])[:2]
    with torch.no_grad():
        fine, coarse = LevelProjection.forward(module, features)
        ys = torch.arange(19) * 10 // 19
        xs = torch.arange(13) * 7 // 13
        expected = module.pyramid.outputs[0](fine + coarse[:, :, ys][..., xs])
        torch.testing.assert_close(module(features)[0], expected)


def test_weights_of_a_fusion_are_normalised_and_not_negative() -> None:
    """EfficientDet, equation 3's fast form: w_i / (ε + Σ w_j) with w through a ReLU."""
    fusion = Fusion(NeckConfig(width=32, norm="none"), 3)
    inputs = [torch.randn(1, 32, 4, 4) for _ in range(3)]
    with torch.no_grad():
        fusion.weights.copy_(torch.tensor([3.0, 1.0, -2.0]))
        mixed = nn.functional.silu(0.75 * inputs[0] + 0.25 * inputs[1])
        expected = fusion.pointwise(fusion.depthwise(mixed))
        torch.testing.assert_close(fusion(inputs), expected, atol=1e-3, rtol=1e-3)


def test_rounds_are_counted() -> None:
    assert len(neck("bifpn", num_rounds=2).pyramid.rounds) == 2


@pytest.mark.parametrize("kind", ["fpn", "bifpn"])
def test_a_pyramid_holds_the_weights_of_a_plain_neck(kind: str) -> None:
    plain = neck("projection").state_dict()
    missing, unexpected = neck(kind).load_state_dict(plain, strict=False)
    assert unexpected == []
    assert all(name.startswith("pyramid.") for name in missing)


def test_a_pyramid_over_one_level_is_refused() -> None:
    with pytest.raises(ValueError, match=r'neck\.kind is "bifpn", but there is one level'):
        neck("bifpn", CHANNELS[:1], num_extra_levels=0)
