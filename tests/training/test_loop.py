import csv
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from saccade.config import DetectorConfig
from saccade.inference import Detector
from saccade.model import DetectorModel
from saccade.run import train
from saccade.run_config import RunConfig
from saccade.settings import read_yaml
from saccade.structures import Predictions, Targets
from saccade.training import loop, step
from saccade.training.checkpoint import Progress, load_checkpoint
from tests.conftest import small_config


def test_the_run_folder_is_complete(run: RunConfig, tmp_path: Path) -> None:
    detector = train(run, tmp_path / "run")
    assert read_yaml(tmp_path / "run" / "config.yaml") == run
    assert detector.class_names == ("cat", "dog")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "best",
        "last",
        "last.ckpt",
        "config.yaml",
        "evaluations.jsonl",
        "logs",
        "csv",
    }
    lines = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    table = (tmp_path / "run" / "csv" / "session-1" / "metrics.csv").read_text().splitlines()
    assert "AP50" in table[0]
    assert len(table) == 1 + 2


def test_losses_of_every_tenth_step_are_logged(run: RunConfig, tmp_path: Path) -> None:
    train(replace(run, epochs=3, batch_size=1, num_evaluations=1), tmp_path / "run")
    with (tmp_path / "run" / "csv" / "session-1" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["loss_ce"]] == ["10"]


def test_a_folder_with_a_run_is_not_overwritten(run: RunConfig, tmp_path: Path) -> None:
    train(replace(run, epochs=1), tmp_path / "run")
    before = (tmp_path / "run" / "last.ckpt").read_bytes()
    with pytest.raises(ValueError, match=r"holds a run already: resume it \(--resume\), or name"):
        train(run, tmp_path / "run")
    assert (tmp_path / "run" / "last.ckpt").read_bytes() == before


def test_training_reduces_the_loss_on_what_it_has_seen(run: RunConfig, tmp_path: Path) -> None:
    # The focal loss falls from the start, while scores that learn quality rise with it.
    focal = replace(run.loss, quality="none")
    run = replace(run, epochs=12, num_evaluations=1, loss=focal)
    totals: list[float] = []
    original = step.Stepper.take

    def record(self: step.Stepper, *arguments: Any) -> bool:
        counted = original(self, *arguments)
        totals.append(self.total.item())
        return counted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step.Stepper, "take", record)
        train(run, tmp_path / "run")
    assert sum(totals[-4:]) < 0.8 * sum(totals[:4])


def test_gradients_of_several_batches_add_up_to_one_step(run: RunConfig, tmp_path: Path) -> None:
    train(replace(run, epochs=3, accumulate=2), tmp_path / "run")
    progress = load_checkpoint(tmp_path / "run" / "last.ckpt").progress
    assert progress.step == 3


def test_a_missing_validation_split_is_told_before_the_first_step(
    run: RunConfig, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match='has no split "val"'):
        train(replace(run, val_split="val"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_are_fine_tuned_and_adapted_by_name(run: RunConfig, tmp_path: Path) -> None:
    """One class is known already: its row of the class head is kept."""
    config = replace(run.model, class_names=("dog", "horse"))
    known = Detector(config, DetectorModel(config))
    known.save_pretrained(tmp_path / "known")
    detector = train(replace(run, weights=str(tmp_path / "known"), epochs=1), tmp_path / "run")
    assert detector.report is not None
    assert detector.report.kept == ("dog",)
    assert detector.report.new == ("cat",)
    written = (tmp_path / "run" / "weights-report.txt").read_text("utf-8")
    assert written == f"{detector.report}\n"
    before = known.model.backbone.body.stem[0][0].weight
    after = detector.model.backbone.body.stem[0][0].weight
    assert 0 < (before - after).abs().max() < 0.02


def test_weights_of_another_shape_are_refused(run: RunConfig, tmp_path: Path) -> None:
    Detector(run.model, DetectorModel(run.model)).save_pretrained(tmp_path / "known")
    wider = replace(run.model, encoder=replace(run.model.encoder, ffn_width=512))
    run = replace(run, model=wider, weights=str(tmp_path / "known"))
    with pytest.raises(
        ValueError, match=r"^--model.encoder.ffn-width is 512, but .* with 256: leave"
    ):
        train(run, tmp_path / "run")


def test_a_run_resumes_only_the_model_it_trained(run: RunConfig, tmp_path: Path) -> None:
    train(replace(run, epochs=1), tmp_path / "run")
    before = (tmp_path / "run" / "config.yaml").read_text()
    other = replace(run, model=replace(run.model, decoder=replace(run.model.decoder, ffn_width=64)))
    with pytest.raises(ValueError, match="trains another model or other classes"):
        train(other, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_minutes_bound_the_run_and_space_the_evaluations() -> None:
    config = RunConfig(model=small_config("detr"), minutes=2.0, num_evaluations=4)
    at = [Progress(seconds=seconds) for seconds in (0.0, 29.0, 31.0, 59.0, 120.0)]
    due = [loop.is_evaluation_due(*pair, config) for pair in itertools.pairwise(at)]
    assert due == [False, True, False, True]
    assert [loop.is_over(moment, config) for moment in at] == [False] * 4 + [True]
    assert loop.share_passed(Progress(seconds=60.0), config) == 0.5


def test_epochs_are_evaluated_at_equal_distances() -> None:
    config = RunConfig(model=small_config("detr"), epochs=10, num_evaluations=3)
    epochs = [Progress(epoch=epoch) for epoch in range(11)]
    due = [loop.is_evaluation_due(*pair, config) for pair in itertools.pairwise(epochs)]
    assert [epoch for epoch, each in enumerate(due, start=1) if each] == [4, 7, 10]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"last\.ckpt does not exist: there is no run to resume"),
        (b"PK\x03\x04 cut short", r"last\.ckpt is not a complete checkpoint of a run"),
    ],
)
def test_a_broken_checkpoint_is_said_in_one_sentence(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "last.ckpt")


def test_analysis_is_recorded_and_changes_no_weight(run: RunConfig, tmp_path: Path) -> None:
    run = replace(run, model=small_config("learned"))
    run = replace(run, model=replace(run.model, input=replace(run.model.input, short_side=64)))
    plain = train(run, tmp_path / "plain")
    analysed = train(replace(run, analyse=2), tmp_path / "analysed")
    for name, weights in plain.model.state_dict().items():
        assert torch.equal(weights, analysed.model.state_dict()[name]), name
    records = read_records(tmp_path / "analysed")
    layer = "decoder.layers.0.cross_attention"
    for record, of_plain in zip(records, read_records(tmp_path / "plain"), strict=True):
        assert record["AP"] == of_plain["AP"]
        assert record[f"sparsity/{layer}"] < 0 < record[f"spread/{layer}"]
        assert not any("/" in name for name in of_plain)
    assert ["matching/changed" in record for record in records] == [False, True]
    assert 0 <= records[1]["matching/changed"] <= records[1]["matching/changed_of_matched"] <= 1
    header = (tmp_path / "analysed" / "csv" / "session-1" / "metrics.csv").read_text()
    assert f"sparsity/{layer}" in header.splitlines()[0]
    assert (tmp_path / "analysed" / "sparsity.png").stat().st_size > 10_000
    assert not (tmp_path / "plain" / "sparsity.png").exists()


def test_a_resumed_run_goes_on_with_the_analysis(run: RunConfig, tmp_path: Path) -> None:
    run = replace(run, model=small_config("learned"), analyse=1, epochs=1)
    run = replace(run, model=replace(run.model, input=replace(run.model.input, short_side=64)))
    train(run, tmp_path / "run")
    train(replace(run, epochs=3), tmp_path / "run", resume=True)
    records = read_records(tmp_path / "run")
    # What a session finds first has nothing to be compared with.
    assert ["matching/changed" in record for record in records] == [False, False, True]
    assert all("sparsity/encoder.layers.0.attention" in record for record in records)


def read_records(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]


def saved_teacher(model: DetectorConfig, folder: Path) -> str:
    torch.manual_seed(7)
    Detector(model, DetectorModel(model)).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def taught(run: RunConfig, tmp_path: Path) -> RunConfig:
    """A run whose teacher has other random weights and knows one class more, in another order."""
    model = small_config("detr")
    model = replace(model, input=replace(model.input, short_side=64))
    run = replace(run, model=model, epochs=1, loss=replace(run.loss, quality="none"))
    teacher = replace(run.model, class_names=("horse", "dog", "cat"))
    return replace(run, teacher=saved_teacher(teacher, tmp_path / "teacher"))


def test_a_teacher_decides_the_matching_and_is_not_saved(
    taught: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    original = loop.SetCriterion.forward

    def watched(
        self: nn.Module, predictions: Predictions, targets: list[Targets], *rest: object
    ) -> object:
        given.append((predictions.matches, targets))
        return original(self, predictions, targets, *rest)

    monkeypatch.setattr(loop.SetCriterion, "forward", watched)
    student = train(taught, tmp_path / "run")
    assert len(given) == 2
    for matches, targets in given:
        assert [len(objects) for _, objects in matches] == [len(each.labels) for each in targets]
    _, state, optimizer, *_ = load_checkpoint(tmp_path / "run" / "last.ckpt")
    assert state.keys() == DetectorModel(student.config).state_dict().keys()
    trained = [each for each in student.model.parameters() if each.requires_grad]
    assert sum(len(group["params"]) for group in optimizer["param_groups"]) == len(trained)
    untaught = train(replace(taught, teacher=None), tmp_path / "untaught")
    assert all(matches is None for matches, _ in given[2:])
    pairs = zip(student.model.parameters(), untaught.model.parameters(), strict=True)
    assert any(not torch.equal(one, other) for one, other in pairs)
    assert read_yaml(tmp_path / "run" / "config.yaml").teacher == taught.teacher


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ("cat", "horse")}, "does not know dog: choose one that was trained on"),
        ({"queries": {"num_queries": 11}}, "queries.num_queries 11, but the student 12: expected"),
        ({"input": {"mean": (0.5, 0.5, 0.5)}}, r"has input\.mean \(0\.5, 0\.5, 0\.5\), but the"),
    ],
)
def test_a_teacher_that_cannot_be_compared_is_refused(
    change: dict[str, Any], message: str, taught: RunConfig, tmp_path: Path
) -> None:
    changes = {
        name: replace(getattr(taught.model, name), **value) if isinstance(value, dict) else value
        for name, value in change.items()
    }
    teacher = saved_teacher(replace(taught.model, **changes), tmp_path / "other")
    with pytest.raises(ValueError, match=message):
        train(replace(taught, teacher=teacher), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (
            "two-stage",
            "two-stage",
            'the student has queries.source "two-stage": expected "learned"',
        ),
        ("learned", "two-stage", 'the teacher has queries.source "two-stage": expected "learned"'),
        ("detr", "encoder-only", 'the teacher has queries.source "tokens": expected "learned"'),
    ],
)
def test_queries_that_mean_nothing_to_each_other_are_refused(
    student: str, teacher: str, message: str, taught: RunConfig, tmp_path: Path
) -> None:
    weights = saved_teacher(small_config(teacher), tmp_path / "other")
    with pytest.raises(ValueError, match=message):
        train(replace(taught, model=small_config(student), teacher=weights), tmp_path / "run")


def test_plain_weights_start_a_detector_with_deformable_convolutions(
    run: RunConfig, tmp_path: Path
) -> None:
    plain = Detector(run.model, DetectorModel(run.model))
    for parameter in plain.model.parameters():
        # Residual blocks start from zero, with no gradient for what is inside of them.
        nn.init.normal_(parameter, std=0.1)
    plain.save_pretrained(tmp_path / "plain")
    backbone = replace(run.model.backbone, deformable_levels=(4, 5))
    model = replace(run.model, backbone=backbone)
    run = replace(run, model=model, weights=str(tmp_path / "plain"), epochs=1)
    detector = train(run, tmp_path / "run")
    assert detector.report is not None
    assert detector.report.added
    state = detector.model.state_dict()
    assert all("sampling_offsets" in name and state[name].any() for name in detector.report.added)
    (first,) = [name for name in detector.report.added if "3.0.first" in name and "bias" in name]
    assert state[first].abs().max() < 0.01
