"""What a run on few images is told."""

from dataclasses import replace
from typing import Any

import pytest

from saccade.advice import advice, num_steps
from saccade.fine_tuning import fine_tuning
from saccade.presets import preset_config
from saccade.recipes import fast, paper, with_mixed_queries
from saccade.run_config import RunConfig


def run_of(preset: str, **values: object) -> RunConfig:
    model = preset_config(preset, ["cat", "dog"])
    run = fast(model) if preset.endswith("nano") else paper(model)
    return replace(run, data="my pets", **values)  # type: ignore[arg-type]


def test_many_images_need_no_advice() -> None:
    assert advice(run_of("deformable-detr-r50"), 5000, 20000) == []
    assert advice(run_of("deformable-detr-nano"), 5000, 20000) == []


@pytest.mark.parametrize(
    ("preset", "weights"),
    [
        ("deformable-detr-r50-two-stage", "SenseTime/deformable-detr-with-box-refine-two-stage"),
        ("deformable-detr-r50-refine", "SenseTime/deformable-detr-with-box-refine"),
        ("deformable-detr-r50", "SenseTime/deformable-detr"),
        ("deformable-detr-r50-single-scale", "SenseTime/deformable-detr-single-scale"),
        ("deformable-detr-r50-single-scale-dc5", "SenseTime/deformable-detr-single-scale-dc5"),
        ("detr-r50", "facebook/detr-resnet-50"),
        ("detr-r101-dc5", "facebook/detr-resnet-101-dc5"),
        ("deformable-detr-r101", "FILE"),
        ("deformable-detr-r50-fpn", "FILE"),
        ("tsp-fcos-r50", "FILE"),
    ],
)
def test_few_images_start_from_published_weights(preset: str, weights: str) -> None:
    (said, *_) = advice(run_of(preset, epochs=500), 400, 4000)
    assert said.endswith(f"saccade train --data 'my pets' --weights {weights}")
    assert said.startswith("400 images are few for a resnet")


@pytest.mark.parametrize(
    ("preset", "part", "values"),
    [
        ("deformable-detr-r50-single-scale", "decoder", {"refined": True}),
        ("deformable-detr-r50", "encoder", {"across_levels": False}),
        ("deformable-detr-r50", "encoder", {"num_heads": 4}),
        ("deformable-detr-r50", "backbone", {"deformable_levels": (5,)}),
        ("detr-r50", "encoder", {"pre_norm": True}),
    ],
)
def test_published_weights_that_do_not_fit_are_not_advised(
    preset: str, part: str, values: dict[str, Any]
) -> None:
    run = run_of(preset, epochs=500)
    changed = replace(getattr(run.model, part), **values)
    (said, *_) = advice(replace(run, model=replace(run.model, **{part: changed})), 400, 4000)
    assert said.endswith("--weights FILE")


def test_the_parts_of_the_fast_recipe_do_not_stand_in_the_way_of_published_weights() -> None:
    model = with_mixed_queries(preset_config("deformable-detr-r50-two-stage", ["cat", "dog"]))
    (said, *_) = advice(fast(model), 400, 4000)
    assert said.endswith("--weights SenseTime/deformable-detr-with-box-refine-two-stage")


def test_very_few_images_may_leave_the_backbone_alone() -> None:
    tuned = replace(fine_tuning(run_of("deformable-detr-r50")), weights="r50.pth", epochs=200)
    (said,) = advice(tuned, 60, 600)
    assert "try --freeze backbone too" in said
    assert advice(replace(tuned, freeze=("backbone",)), 60, 600) == []
    assert advice(tuned, 150, 600) == []


def test_a_small_detector_starts_from_any_run_of_its_kind() -> None:
    (said,) = advice(run_of("deformable-detr-nano"), 200, 4000)
    assert said.endswith("start from it: --weights RUN/best")


def test_few_steps_are_told_with_what_would_be_enough() -> None:
    run = replace(run_of("deformable-detr-r50"), weights="r50.pth", epochs=10)
    (said,) = advice(run, 320, 4000)
    assert said == (
        "The run has 100 steps of 32 images: expected some hundreds at least. Add epochs (--epochs "
        "30), or take fewer images a step (--accumulate 1)."
    )
    assert advice(replace(run, epochs=30), 320, 4000) == []
    assert advice(replace(run, minutes=5.0), 320, 4000) == []


def test_steps_are_counted_as_the_loop_takes_them() -> None:
    run = run_of("deformable-detr-r50", epochs=3, batch_size=2, accumulate=4)
    assert num_steps(run, 17) == 3 * 2
    assert num_steps(replace(run, minutes=1.0), 17) is None


def test_few_objects_are_told() -> None:
    run = replace(run_of("deformable-detr-nano"), weights="best", epochs=500)
    (said,) = advice(run, 200, 30)
    assert said.startswith("There are 15.0 objects a class to learn from (30 of 2 classes)")
