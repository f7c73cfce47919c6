"""Every system learns eight images by heart: what cannot do that does not train."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saccade.config import DetectorConfig
from saccade.data import SplitDataset, evaluation_transform, find_split
from saccade.data.batching import collate
from saccade.data.shapes import write_shapes
from saccade.inference import Detector
from saccade.model import DetectorModel
from saccade.presets import preset_config, with_backbone
from saccade.recipes import for_detector
from saccade.split_evaluation import SplitEvaluation
from saccade.training import SetCriterion
from saccade.training.optimizer import build_optimizer

pytestmark = pytest.mark.slow

SIDE = 96
MOST_STEPS = 1000
STEPS_BETWEEN = 50


def _coarse(config: DetectorConfig) -> DetectorConfig:
    """On the map of stride 32, where the nano preset of DETR has that of DETR-DC5."""
    return replace(config, backbone=replace(config.backbone, levels=(5,)))


def _levelwise(config: DetectorConfig) -> DetectorConfig:
    return replace(config, encoder=replace(config.encoder, across_levels=False))


def _one_point(config: DetectorConfig) -> DetectorConfig:
    return replace(
        config,
        encoder=replace(config.encoder, num_points=1),
        decoder=replace(config.decoder, num_points=1),
    )


def _late_convolutions(config: DetectorConfig) -> DetectorConfig:
    """Without those of C3, which take most of the time on a CPU."""
    return replace(config, backbone=replace(config.backbone, deformable_levels=(4, 5)))


def _resnext(config: DetectorConfig) -> DetectorConfig:
    return with_backbone(config, "resnext26ts")


def _key_terms(config: DetectorConfig) -> DetectorConfig:
    return replace(config, encoder=replace(config.encoder, terms=("key", "position")))


Change = Callable[[DetectorConfig], DetectorConfig]

MEMBERS: dict[str, tuple[str, Change | None]] = {
    "DETR": ("detr-nano", _coarse),
    "DETR-DC5": ("detr-nano", None),
    "DETR-DC5+": ("detr-plus-nano", None),
    "encoder-only DETR": ("encoder-only-detr-nano", None),
    "TSP-FCOS": ("tsp-fcos-nano", None),
    "TSP-RCNN": ("tsp-rcnn-nano", None),
    "Deformable DETR, one scale": ("deformable-detr-single-scale-nano", None),
    "Deformable DETR": ("deformable-detr-plain-nano", None),
    "+ refinement": ("deformable-detr-refine-nano", None),
    "++ two-stage": ("deformable-detr-nano", None),
    "K = 1": ("deformable-detr-plain-nano", _one_point),
    "no attention across levels": ("deformable-detr-plain-nano", _levelwise),
    "FPN": ("deformable-detr-fpn-nano", None),
    "BiFPN": ("deformable-detr-bifpn-nano", None),
    "deformable convolutions": ("deformable-detr-dcn-nano", _late_convolutions),
    "ResNeXt": ("deformable-detr-nano", _resnext),
    "Synthesizer, dense": ("synthesizer-dense-detr-nano", None),
    "Synthesizer, random": ("synthesizer-random-detr-nano", None),
    "four-term attention": ("four-term-detr-nano", None),
    "two of the four terms": ("four-term-detr-nano", _key_terms),
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, num_train=8, num_val=1, side=SIDE, most_objects=3)
    return folder


@pytest.mark.parametrize("member", MEMBERS)
def test_overfits_eight_images(member: str, shapes: Path) -> None:
    assert overfit(shapes, *MEMBERS[member]) > 0.95


def overfit(folder: Path, preset: str, change: Change | None) -> float:
    """AP50 on eight images after training on nothing else."""
    torch.manual_seed(0)
    config = preset_config(preset)
    config = change(config) if change else config
    config = replace(
        config,
        input=replace(config.input, short_side=SIDE, max_side=SIDE),
        queries=replace(config.queries, num_queries=20),
    )
    dataset = SplitDataset(
        find_split(folder, "train"), transform=evaluation_transform(config.input)
    )
    config = replace(config, class_names=dataset.class_names)
    detector = Detector(config, DetectorModel(config))
    evaluation = SplitEvaluation(detector, folder, "train", batch_size=8)
    run = for_detector(config)
    criterion = SetCriterion(run.loss, config.num_classes, config.classification)
    optimizer = build_optimizer(detector.model, run.optimizer)
    batch, targets = collate([dataset[index] for index in range(len(dataset))])
    score = 0.0
    for step in range(1, MOST_STEPS + 1):
        detector.model.train()
        losses = criterion(detector.model(batch, targets), targets)
        optimizer.zero_grad()
        criterion.total(losses).backward()
        if run.optimizer.clip_norm:
            torch.nn.utils.clip_grad_norm_(detector.model.parameters(), run.optimizer.clip_norm)
        optimizer.step()
        if step % STEPS_BETWEEN == 0:
            score = evaluation().AP50
        if score > 0.95:
            break
    return score
