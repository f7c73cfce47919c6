"""The detectors that these tests export: few layers and samples, since capturing takes time."""

from dataclasses import replace

import torch

from saccade import Detector
from saccade.model import DetectorModel
from tests.conftest import small_config


def small_detector(kind: str, seed: int = 0) -> Detector:
    """Of one encoder and two decoder layers; its weights are random everywhere."""
    config = small_config(kind)
    points = {} if kind == "detr" else {"num_points": 2}
    config = replace(
        config,
        encoder=replace(config.encoder, num_layers=1, **points),
        decoder=replace(config.decoder, num_layers=2, **points),
        input=replace(config.input, short_side=96, max_side=160),
    )
    torch.manual_seed(seed)
    model = DetectorModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return Detector(config, model)


def pixels(*shape: int) -> torch.Tensor:
    """Images of noise."""
    generator = torch.Generator().manual_seed(len(shape) + sum(shape))
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
