import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import deform_conv2d

from saccade.analysis.counts import FORMULAS, count
from saccade.model import DetectorModel
from saccade.presets import preset_config

PUBLISHED = {
    "detr-r50": (41e6, 86e9),
    "detr-r50-dc5": (41e6, 187e9),
    "deformable-detr-r50": (40e6, 173e9),
    "deformable-detr-r50-refine": (41e6, 173e9),
    "deformable-detr-r50-two-stage": (41e6, 173e9),
    "deformable-detr-r50-single-scale": (34e6, 78e9),
    "deformable-detr-r50-single-scale-dc5": (34e6, 128e9),
}
"""Deformable DETR, table 1, and the table of its repository."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_counts_are_the_published_ones(name: str) -> None:
    counts = count(preset_config(name))
    parameters, flops = PUBLISHED[name]
    assert counts.parameters == pytest.approx(parameters, rel=0.03)
    assert counts.flops == pytest.approx(flops, rel=0.03)
    assert sum(counts.flops_by_part.values()) == counts.flops


SPARSE = {"tsp-fcos-r50": 189e9, "tsp-rcnn-r50": 188e9}
"""As Conditional DETR's tables cite TSP; they do not say of images of which size."""


@pytest.mark.parametrize("name", SPARSE)
def test_the_flops_of_sparse_detectors_are_the_published_ones(name: str) -> None:
    counts = count(preset_config(name))
    assert counts.flops == pytest.approx(SPARSE[name], rel=0.03)
    assert sum(counts.flops_by_part.values()) == counts.flops


def test_the_selection_of_regions_by_hand() -> None:
    """Towers over all levels but the finest, RoIAlign and its projection for each proposal."""
    config = preset_config("tsp-rcnn-nano")
    counts = count(config, (64, 96))
    width, size = config.neck.width, config.selection.region_size
    points = 8 * 12 + 4 * 6 + 2 * 3
    towers = 2 * 9 * width**2 + 9 * width * (1 + 4)
    read = size**2 * width * (4 * 2**2 + config.width)
    assert counts.flops_by_part["selection"] == points * towers + config.selection.num_tokens * (
        read + config.width**2
    )


def test_the_backbone_of_a_small_image_by_hand() -> None:
    """ResNet-50 is published with 4.09 G multiply-adds at 224 x 224, 2 M of them classifying."""
    counts = count(preset_config("deformable-detr-r50"), (224, 224))
    assert counts.flops_by_part["backbone"] == pytest.approx(4.087e9, rel=0.001)
    sides = (28, 14, 7, 4)
    convolutions = zip(sides, (512, 1024, 2048, 2048 * 9), strict=True)
    assert counts.flops_by_part["neck"] == sum(256 * side**2 * c for side, c in convolutions)


def test_one_deformable_encoder_by_hand() -> None:
    counts = count(preset_config("deformable-detr-r50-single-scale"), (64, 96))
    tokens = 2 * 3
    projections = 256 * 256 * 2 + 256 * 8 * 4 * 3
    sampling = 5 * 8 * 4 * 32
    assert counts.flops_by_part["encoder"] == 6 * tokens * (projections + sampling + 2 * 256 * 1024)


def test_one_dense_encoder_by_hand() -> None:
    counts = count(preset_config("detr-r50"), (64, 96))
    tokens = 2 * 3
    each = 4 * 256 * 256 + 2 * tokens * 256 + 2 * 256 * 2048
    assert counts.flops_by_part["encoder"] == 6 * tokens * each


def test_a_deformable_convolution_by_hand() -> None:
    with torch.device("meta"):
        arguments = (torch.zeros(2, 6, 5, 7), torch.zeros(2, 18, 5, 7), torch.zeros(4, 6, 3, 3))
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        deform_conv2d(*arguments, padding=1)
    assert counter.get_total_flops() // 2 == 2 * 5 * 7 * 9 * (4 * 6 + 4 * 6)


def test_trained_parameters_are_those_that_training_changes() -> None:
    config = preset_config("deformable-detr-r50")
    counts = count(config, (64, 64))
    with torch.device("meta"):
        model = DetectorModel(config)
    frozen = sum(each.numel() for each in model.parameters() if not each.requires_grad)
    assert frozen > 200_000
    assert counts.trained == counts.parameters - frozen


def test_an_image_too_small_for_its_proposals_is_refused() -> None:
    with pytest.raises(ValueError, match="has 85 tokens but the detector takes 300 proposals"):
        count(preset_config("deformable-detr-r50-two-stage"), (64, 64))
