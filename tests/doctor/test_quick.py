from dataclasses import replace
from pathlib import Path

import torch

from saccade.data import Annotations, CocoSplit
from saccade.doctor.findings import Finding
from saccade.doctor.quick import quick_findings
from saccade.model import DetectorModel
from saccade.run_config import RunConfig

from .datasets import Box, annotations, healthy, nano, only

SPLIT = CocoSplit(Path("images"), Path("annotations.json"))


def found(
    config: RunConfig | None = None,
    train: Annotations | None = None,
    val: Annotations | None = None,
    prior: float = -4.6,
) -> list[Finding]:
    config = config or nano()
    torch.manual_seed(0)
    model = DetectorModel(config.model)
    for name, parameter in model.named_parameters():
        if "class_head" in name and name.endswith("bias"):
            torch.nn.init.constant_(parameter, prior)
    return quick_findings(
        config,
        (SPLIT, train or healthy(40)),
        (SPLIT, val or healthy(6, first_image=100)),
        model,
    )


def test_a_healthy_run_has_nothing_to_say() -> None:
    assert found() == []


def test_only_what_hurts_is_said_of_the_data() -> None:
    box: Box = (20, 20, 60, 60)
    few = annotations([[(1, box), (2, (90, 20, 50, 50)), (3, (9, 9, 40, 40))]] * 3)
    assert found(train=few) == []
    missing = annotations([[(1, box), (2, (90, 20, 50, 50))]] * 30)
    assert "no object to train on (cow" in only(found(train=missing)).what


def test_images_of_both_splits_are_found_by_their_names() -> None:
    shared = only(found(val=healthy(4, first_image=38)))
    assert "3 images of val (75 %) are trained on too" in shared.what


def test_evaluating_on_what_is_trained_on_is_said() -> None:
    config = replace(nano(), val_split="train")
    assert "40 images of train (evaluated) (100 %)" in only(found(config, val=healthy(40))).what


def test_the_recipe_and_the_weights_are_linted() -> None:
    assert "start from a probability of 0.5" in only(found(prior=0.0)).what
    larger = replace(nano(), accumulate=400)
    assert "is too low and learns slowly" in only(found(larger)).what
