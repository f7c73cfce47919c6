from dataclasses import replace
from pathlib import Path

import pytest

from saccade.presets import preset_config, presets
from saccade.recipes import for_detector
from saccade.run_config import RunConfig
from saccade.settings import free_folder, read_yaml, write_yaml


@pytest.mark.parametrize("name", presets())
def test_every_recipe_survives_yaml(name: str, tmp_path: Path) -> None:
    run = replace(for_detector(preset_config(name)), minutes=2.5, data="some/folder")
    write_yaml(run, tmp_path / "run.yaml")
    assert read_yaml(tmp_path / "run.yaml") == run


def test_what_a_file_leaves_out_takes_its_default(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: {class_names: [cat]}\noptimizer: {learning_rate: 1e-4}\n")
    run = read_yaml(file)
    assert run.optimizer.learning_rate == 1e-4
    assert run.epochs == RunConfig(model=run.model).epochs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model: {class_names: [cat]}\nepoch: 3\n",
            r"run\.yaml: epoch is not a field of RunConfig",
        ),
        (
            "model: {class_names: [cat]}\nepochs: many\n",
            r"run\.yaml: epochs is 'many': expected int",
        ),
        ("model: {class_names: [cat]}\nepochs: 0\n", r"run\.yaml: epochs is 0: expected more than"),
        ("model: [", r"run\.yaml is not YAML: while parsing"),
        ("just words", r"run\.yaml: the configuration is 'just words': expected its fields"),
    ],
)
def test_an_unusable_file_is_said_in_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_yaml(file)


def test_a_used_folder_is_not_used_again(tmp_path: Path) -> None:
    assert free_folder(tmp_path / "run") == tmp_path / "run"
    (tmp_path / "run").mkdir()
    (tmp_path / "run-2").mkdir()
    assert free_folder(tmp_path / "run") == tmp_path / "run-3"
