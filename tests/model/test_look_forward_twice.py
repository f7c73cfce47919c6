from dataclasses import replace

import pytest
import torch

from saccade.config_parts import DecoderConfig
from saccade.model import DetectorModel
from saccade.structures import Batch, Predictions
from tests.conftest import small_config


def predict(twice: bool) -> tuple[Predictions, list[bool]]:
    """Predictions, and which layer's box head the last layer's boxes reach."""
    config = small_config("two-stage")
    config = replace(config, decoder=replace(config.decoder, look_forward_twice=twice))
    torch.manual_seed(0)
    model = DetectorModel(config).eval()
    heads = model.decoder.heads.box_heads
    for head in heads:
        torch.nn.init.normal_(head.last.weight, std=0.1)
    predictions = model(Batch.from_images([torch.randn(3, 64, 64)]))
    predictions.boxes.sum().backward()
    return predictions, [head.last.bias.grad is not None for head in heads]


def test_predictions_are_the_same_and_gradients_reach_one_layer_further() -> None:
    once, near = predict(False)
    twice, far = predict(True)
    torch.testing.assert_close(twice.boxes, once.boxes)
    assert near == [False, False, True]
    assert far == [False, True, True]


def test_without_refinement_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"decoder\.look_forward_twice is true, but"):
        DecoderConfig(look_forward_twice=True)
