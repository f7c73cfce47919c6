from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from saccade.config import DetectorConfig
from saccade.model import DetectorModel
from saccade.presets import preset_config

CLASSES = ("cat", "dog", "bird", "fish", "horse")


@pytest.fixture
def small_config() -> Callable[..., DetectorConfig]:
    """A preset's detector with its own wiring and smaller numbers, most of them different."""

    def build(preset: str, backbone: str = "resnet18") -> DetectorConfig:
        config = preset_config(preset, CLASSES)
        encoder = replace(config.encoder, num_layers=2, num_heads=4, ffn_width=24)
        decoder = replace(config.decoder, num_layers=3, num_heads=4, ffn_width=24)
        if config.encoder.attention == "deformable":
            encoder, decoder = replace(encoder, num_points=2), replace(decoder, num_points=3)
        return replace(
            config,
            backbone=replace(config.backbone, name=backbone),
            neck=replace(config.neck, width=32),
            encoder=encoder,
            decoder=decoder,
            queries=replace(config.queries, num_queries=9),
        )

    return build


@pytest.fixture
def random_state() -> Callable[[DetectorConfig], dict[str, Tensor]]:
    """Every tensor of a detector at random, so that no two are equal."""

    def build(config: DetectorConfig) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(3)
        with torch.device("meta"):
            state = DetectorModel(config).state_dict()
        return {
            key: torch.randn(tensor.shape, generator=generator)
            if tensor.is_floating_point()
            else torch.zeros(tensor.shape, dtype=tensor.dtype)
            for key, tensor in state.items()
        }

    return build


@pytest.fixture
def assert_same() -> Callable[[dict[str, Tensor], dict[str, Tensor]], None]:
    """Bitwise, names included."""

    def check(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
        assert found.keys() == expected.keys()
        differing = [key for key in found if not torch.equal(found[key], expected[key])]
        assert not differing

    return check
