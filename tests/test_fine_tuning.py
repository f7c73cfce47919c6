"""The recipe of a run that starts from a trained detector."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from saccade.cli import main
from saccade.config import DetectorConfig
from saccade.fine_tuning import fine_tuning
from saccade.inference import Detector
from saccade.model import DetectorModel
from saccade.presets import preset_config
from saccade.recipes import fast, for_detector, paper
from saccade.run_config import RunConfig
from saccade.settings import read_yaml
from saccade.weights import save_weights
from saccade.weights.fit import check_options
from tests.conftest import small_config


@pytest.mark.parametrize("recipe", [paper, fast])
def test_twelve_epochs_of_eight_images_at_the_same_rate_per_image(
    recipe: Callable[[DetectorConfig], RunConfig],
) -> None:
    before = recipe(preset_config("deformable-detr-r50-two-stage"))
    after = fine_tuning(before)
    assert after.epochs == 12 < before.epochs
    assert after.batch_size * after.accumulate == 8
    assert after.optimizer.learning_rate == pytest.approx(5e-5)
    per_image = [each.optimizer.learning_rate / each.accumulate for each in (before, after)]
    assert per_image[0] == pytest.approx(per_image[1])
    assert after.schedule == replace(before.schedule, warmup=0.03)
    assert after.augmentation == before.augmentation


def test_a_run_of_few_images_a_step_keeps_its_rate() -> None:
    before = replace(fast(small_config("two-stage")), epochs=9)
    after = fine_tuning(before)
    assert after.optimizer == before.optimizer
    assert (after.epochs, after.accumulate) == (9, 1)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "shorter"),
    [(2, 16, 4), (3, 8, 3), (5, 5, 2), (10, 16, 4), (1, 6, 6), (7, 1, 1)],
)
def test_a_step_has_eight_images_at_least(batch_size: int, accumulate: int, shorter: int) -> None:
    before = replace(fast(small_config("two-stage")), batch_size=batch_size, accumulate=accumulate)
    after = fine_tuning(before)
    assert after.accumulate == shorter
    rate = before.optimizer.learning_rate * shorter / accumulate
    assert after.optimizer.learning_rate == pytest.approx(rate)


def train_into(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> RunConfig | None:
    """The run that the command would train."""
    asked = []
    monkeypatch.setattr("saccade.run.train", lambda run, *_: asked.append(run))
    status = main(["train", "--data", str(folder), "--out", str(folder / "run"), *arguments])
    return asked[0] if status == 0 else None


def test_weights_choose_the_shorter_recipe_and_options_overrule_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config("detr")
    weights = tmp_path / "weights"
    Detector(config, DetectorModel(config)).save_pretrained(weights)
    full = for_detector(config)
    run = train_into(tmp_path, monkeypatch, ["--weights", str(weights)])
    assert run is not None
    assert run.epochs == fine_tuning(full).epochs
    assert run.model == replace(config, class_names=("object",))
    options = ["--weights", str(weights), "--epochs", "7", "--freeze", "backbone", "neck"]
    run = train_into(tmp_path, monkeypatch, options)
    assert run is not None
    assert (run.epochs, run.freeze) == (7, ("backbone", "neck"))


def test_a_preset_beside_weights_says_what_to_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "any.pth"
    weights.touch()
    options = ["--weights", str(weights), "--preset", "deformable-detr-nano"]
    run = train_into(tmp_path, monkeypatch, [*options, "--model.queries.num-queries", "50"])
    assert run is not None
    assert run.weights == str(weights)
    assert run.model.queries.num_queries == 50
    assert run.epochs == fine_tuning(for_detector(run.model)).epochs


def test_the_preset_of_a_run_fits_its_weights_whichever_queries_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = ["--preset", "deformable-detr-r50-two-stage"]
    before = train_into(tmp_path, monkeypatch, preset)
    assert before is not None
    assert before.model.queries.content == "learned"
    weights = tmp_path / "best"
    save_weights(weights, before.model, {})
    preset += ["--weights", str(weights)]
    after = train_into(tmp_path, monkeypatch, preset)
    assert after is not None
    check_options(before.model, after.model, "best")
    asked = train_into(tmp_path, monkeypatch, [*preset, "--model.queries.content", "proposal"])
    assert asked is not None
    assert asked.model.queries.content == "proposal"


def test_a_configuration_in_yaml_is_complete_with_freezing(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "model: {class_names: [cat]}\nfreeze: [backbone, encoder.layers.0]\n"
        "optimizer: {layer_decay: 0.8}\n"
    )
    run = read_yaml(tmp_path / "run.yaml")
    assert run.freeze == ("backbone", "encoder.layers.0")
    assert run.optimizer.layer_decay == 0.8
