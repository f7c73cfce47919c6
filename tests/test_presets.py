import pytest
import torch

from saccade.model import DetectorModel
from saccade.presets import preset_config

OFFICIAL = {
    "deformable-detr-r50": 40_069_665,
    "deformable-detr-r50-refine": 40_849_660,
    "deformable-detr-r50-two-stage": 41_181_529,
    "deformable-detr-r50-single-scale": 34_066_593,
    "detr-r50": 41_524_768,
}
"""Parameters with 91 classes, the frozen stem and first stage included."""


@pytest.mark.parametrize(("name", "count"), OFFICIAL.items())
def test_as_many_parameters_as_officially(name: str, count: int) -> None:
    with torch.device("meta"):
        model = DetectorModel(preset_config(name))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_dilation_adds_no_parameter_and_halves_the_stride() -> None:
    with torch.device("meta"):
        plain = DetectorModel(preset_config("deformable-detr-r50-single-scale"))
        dilated = DetectorModel(preset_config("deformable-detr-r50-single-scale-dc5"))
        images = torch.zeros(1, 3, 64, 96)
        shapes = [model.backbone(images)[0].shape for model in (plain, dilated)]
    assert shapes == [(1, 2048, 2, 3), (1, 2048, 4, 6)]
    assert plain.state_dict().keys() == dilated.state_dict().keys()
