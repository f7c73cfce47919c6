import math
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from saccade.config import DetectorConfig
from saccade.doctor.examination import examine
from saccade.doctor.findings import Severity
from saccade.doctor.recipe_lint import (
    lint_gradients,
    lint_input,
    lint_learning_rate,
    lint_minutes,
    lint_prior,
    lint_recipe,
    lint_schedule,
    lint_steps,
    lint_weights,
)
from saccade.fine_tuning import fine_tuning
from saccade.model import DetectorModel
from saccade.presets import preset_config, presets
from saccade.recipes import RecipeName, for_detector

from ..conftest import small_config
from .datasets import nano, only, write_dataset


@pytest.mark.parametrize("preset", presets())
def test_every_recipe_is_fine_as_it_is(preset: str) -> None:
    # The published recipes enlarge images to 800 pixels, which the smallest detectors never see.
    recipes = get_args(RecipeName) if "nano" not in preset else ("fast",)
    for recipe in recipes:
        run = for_detector(preset_config(preset), recipe)
        tuned = fine_tuning(replace(run, weights="some"))
        for each in (run, tuned):
            assert lint_recipe(each, 118_287) == []
            assert lint_steps(each, 118_287) == []


@pytest.mark.parametrize(
    ("accumulate", "rate", "found"),
    [
        (16, 2e-4, ""),
        (4, 2e-4, ""),
        (1, 2e-4, "high and may diverge"),
        (1, 5e-5, ""),
        (1, 1.25e-5, ""),
        (160, 2e-4, "low and learns slowly"),
        (160, 6.3e-4, ""),
        (160, 2e-3, ""),
    ],
)
def test_the_learning_rate_must_follow_the_batch(accumulate: int, rate: float, found: str) -> None:
    run = for_detector(preset_config("deformable-detr-r50-two-stage"), "paper")
    run = replace(run, accumulate=accumulate)
    run = replace(run, optimizer=replace(run.optimizer, learning_rate=rate))
    said = lint_learning_rate(run)
    assert bool(said) == bool(found)
    if found:
        assert found in only(said).what
        assert "learning rate of 0.0002 is for 32" in only(said).what


def test_the_remedy_for_the_learning_rate_satisfies_the_lint() -> None:
    run = replace(for_detector(preset_config("deformable-detr-r50"), "paper"), accumulate=1)
    said = only(lint_learning_rate(run))
    assert said.remedy == "pass --optimizer.learning-rate 5e-05, or --accumulate 16"
    followed = replace(run, optimizer=replace(run.optimizer, learning_rate=5e-5))
    assert lint_learning_rate(followed) == []
    assert lint_learning_rate(replace(run, accumulate=16)) == []


def test_devices_count_in_the_batch() -> None:
    run = for_detector(preset_config("deformable-detr-r50"), "paper")
    eight = replace(run, accumulate=2, launch=replace(run.launch, devices=8))
    assert lint_learning_rate(eight) == []


@pytest.mark.parametrize(("epochs", "found"), [(1, 1), (100, 0)])
def test_a_run_of_a_few_steps_hurts(epochs: int, found: int) -> None:
    said = lint_steps(nano(epochs=epochs), 80)
    assert len(said) == found
    if found:
        assert said[0].severity is Severity.HURTS
        assert "the run takes 10 steps of the optimiser, in 1 epoch of 80 images" in said[0].what
        assert said[0].remedy.startswith("pass --epochs 100")


def test_a_run_that_is_too_short_is_told_so_once(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data")
    for epochs, severity in ((1, Severity.HURTS), (100, Severity.INFORMATION)):
        found = examine(
            folder, nano(epochs=epochs), "nano", lambda *_: lambda _: None, measured=False
        ).findings
        (short,) = [each for each in found if "epochs" in each.remedy or "epochs" in each.what]
        assert short.severity is severity


def test_runs_bound_by_minutes_have_no_number_of_steps() -> None:
    assert lint_steps(nano(minutes=5.0), 80) == []


def test_a_drop_at_the_very_end_is_never_reached() -> None:
    run = for_detector(preset_config("deformable-detr-r50"), "paper")
    assert lint_schedule(run, 1000) == []
    late = replace(run, schedule=replace(run.schedule, drop_at=1.0))
    assert (
        only(lint_schedule(late, 1000)).remedy
        == "pass --schedule.drop-at 0.8, the published recipe's"
    )


def test_a_warm_up_of_less_than_a_step_is_worth_a_look() -> None:
    assert "over with the first one" in only(lint_schedule(nano(epochs=1), 80)).what
    assert lint_schedule(nano(epochs=10), 80) == []


@pytest.mark.parametrize(("seconds", "found"), [(200.0, 0), (1200.0, 1)])
def test_minutes_shorter_than_an_epoch_are_worth_a_look(seconds: float, found: int) -> None:
    said = lint_minutes(nano(minutes=5.0), seconds)
    assert len(said) == found
    if found:
        assert "after about 25% of an epoch, which takes 20 minutes" in said[0].what
    assert lint_minutes(nano(), seconds) == []


def test_training_and_evaluation_at_other_sizes_are_worth_a_look() -> None:
    run = nano()
    model = replace(run.model, input=replace(run.model.input, short_side=480))
    said = only(lint_input(replace(run, model=model)))
    assert "at most 240 pixels, evaluation to 480" in said.what


def test_a_new_detector_has_its_prior_and_one_of_zeros_has_lost_it(kind: str) -> None:
    config = small_config(kind)
    model = DetectorModel(config)
    assert lint_weights(model, config) == []
    heads = [
        head for name, head in model.named_modules() if "class_head" in name.rsplit(".", 2)[-2:][0]
    ]
    heads += [head for name, head in model.named_modules() if name.endswith("class_head")]
    for head in heads:
        if isinstance(head, torch.nn.Linear):
            torch.nn.init.zeros_(head.bias)
    lost = lint_weights(model, config)
    assert len(lost) == (config.classification == "sigmoid" and bool(heads))
    if lost:
        assert lost[0].severity is Severity.HURTS
        assert "start from a probability of 0.5, expected about 0.01" in lost[0].what


def test_biases_of_trained_heads_are_left_alone() -> None:
    bias = -math.log(99) + torch.tensor([1.3, -2.0, 0.7])
    assert lint_prior({"decoder.heads.class_heads.0.bias": bias}) == []


def test_parts_frozen_without_a_word_are_worth_a_look_and_a_frozen_detector_hurts() -> None:
    config: DetectorConfig = small_config("two-stage")
    model = DetectorModel(config)
    model.backbone.requires_grad_(False)
    assert lint_weights(model, config) == []
    model.freeze(["neck"])
    assert lint_weights(model, config) == []
    model.encoder.requires_grad_(False)
    said = only(lint_weights(model, config))
    assert said.severity is Severity.LOOK
    assert "no parameter of encoder is trained" in said.what
    model.requires_grad_(False)
    assert only(lint_weights(model, config)).severity is Severity.HURTS


def test_modules_that_no_gradient_reaches_hurt() -> None:
    assert lint_gradients([]) == []
    said = only(lint_gradients(["decoder.heads"]))
    assert said.severity is Severity.HURTS
    assert "no gradient reaches decoder.heads" in said.what
