"""Reports of made-up runs."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tyro

from saccade.analysis.study import STUDIES
from saccade.analysis.study.arguments import StudyArguments
from saccade.analysis.study.conditions import command
from saccade.analysis.study.document import (
    Bullets,
    Code,
    Heading,
    Paragraph,
    Table,
    to_html,
    to_markdown,
)
from saccade.analysis.study.findings import cautions, convergence
from saccade.analysis.study.plots import mean_curve
from saccade.analysis.study.report import write_report
from saccade.analysis.study.results import RowResult, read_study
from saccade.analysis.study.settings import DataSummary, StudySettings, keep_settings, run_config
from saccade.settings import write_yaml

LAYER = "sparsity/decoder.layers.0.cross_attention"


def settings(study: str = "convergence", **changed: object) -> StudySettings:
    data = DataSummary(
        name="cells | <b>",
        num_classes=2,
        num_train=80,
        num_val=20,
        val_objects=(300, 9, 70),
        image_size=(120, 160),
        fingerprint="0",
    )
    values: dict[str, object] = {
        "study": study,
        "size": "nano",
        "epochs": 4,
        "minutes": None,
        "short_side": 96,
        "batch_size": None,
        "num_evaluations": 4,
        "learning_rates": {"detr": 1e-4},
        "data": data,
    }
    return StudySettings(**values | changed)  # type: ignore[arg-type]


def write_run(
    out: Path, key: str, aps: Sequence[float], seed: int = 0, ended: bool = True, every: int = 1
) -> None:
    """A run of ten steps an epoch, evaluated every so many epochs."""
    kept = settings()
    (row,) = STUDIES[kept.study].pick("nano", [key])
    folder = out / key / f"seed-{seed}"
    folder.mkdir(parents=True)
    write_yaml(run_config(row, kept, seed, Path("anywhere")), folder / "config.yaml")
    with (folder / "evaluations.jsonl").open("w") as file:
        for number, ap in enumerate(aps, start=1):
            epoch = number * every
            record = {"epoch": epoch, "step": 10 * epoch, "minutes": 0.5 * epoch, LAYER: -0.1}
            record |= {"AP": ap, "AP50": ap, "AP75": ap, "APs": ap / 2, "APm": -1.0, "APl": ap}
            file.write(json.dumps(record) + "\n")
    if ended:
        facts = {"processor": "Abacus", "cores": 4, "threads": 1, "torch": "2.0"}
        (folder / "done.json").write_text(json.dumps(facts))


def write_study(out: Path) -> None:
    """DETR with AP 0.2 after 40 epochs, Deformable DETR with two seeds, one row unfinished."""
    keep_settings(settings(), out)
    write_run(out, "detr", [0.0, 0.1, 0.25, 0.2], every=10)
    write_run(out, "deformable", [0.1, 0.2, 0.3, 0.4], seed=0)
    write_run(out, "deformable", [0.1, 0.1, 0.1, 0.2], seed=1)
    write_run(out, "deformable-refine", [0.1, 0.15, 0.1, 0.15])
    write_run(out, "deformable-two-stage", [0.1, 0.3], ended=False)


def row_of(out: Path, key: str) -> RowResult:
    (found,) = [each for each in read_study(out).rows if each.row.key == key]
    return found


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write_study(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The HTML file of a report."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder)
    return write_report(folder)


def test_sentences_say_when_the_final_ap_of_detr_is_reached(out: Path) -> None:
    (sentence,) = convergence(read_study(out))
    assert sentence == (
        "DETR ends with AP 20.0 after 40 epochs. The first evaluation with as much: Deformable "
        "DETR at epoch 3 (2 to 4), 7.5 % of these epochs; + box refinement none within 4 epochs. "
        "Their own ends, after 4 epochs, differ from it by +10.0 and -5.0 in AP, and by +5.0 and "
        "-2.5 in AP of small objects."
    )


def test_shares_of_more_than_all_epochs_are_whole_numbers(tmp_path: Path) -> None:
    keep_settings(settings(), tmp_path)
    write_run(tmp_path, "detr", [0.1, 0.2])
    write_run(tmp_path, "deformable", [0.1, 0.1, 0.1, 0.2])
    (sentence,) = convergence(read_study(tmp_path))
    assert "at epoch 4, 200 % of these epochs. Their" in sentence


def test_seeds_that_do_not_reach_it_are_counted(out: Path) -> None:
    write_run(out, "deformable", [0.1, 0.1], seed=2)
    (sentence,) = convergence(read_study(out))
    assert "at epoch 3 (2 to 4), 7.5 % of these epochs, with 2 of 3 seeds;" in sentence


def test_nobody_is_compared_with_a_detector_that_has_not_learned(tmp_path: Path) -> None:
    keep_settings(settings(), tmp_path)
    write_run(tmp_path, "detr", [0.002], every=40)
    write_run(tmp_path, "deformable", [0.1])
    (sentence,) = convergence(read_study(tmp_path))
    assert sentence == "DETR ends with AP 0.2 after 40 epochs: too little to compare with."


def test_figures_are_those_of_the_last_evaluation(page: Path) -> None:
    lines = page.with_suffix(".md").read_text("utf-8").splitlines()
    (row,) = [line for line in lines if line.startswith("| Deformable DETR |") and "±" in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    # Epochs, minutes, AP, ... of objects of a medium size, which are not there, ... best AP, n.
    assert cells[3:6] == ["4", "2.0", "30.0 ± 14.1"]
    assert cells[8:] == ["15.0 ± 7.1", "-", "30.0 ± 14.1", "30.0 ± 14.1", "2"]
    (row,) = [line for line in lines if line.startswith("| ++ two-stage (unfinished) |")]
    assert [cell.strip() for cell in row.strip("|").split("|")][3:6] == ["2 of 4", "1.0", "30.0"]


def test_what_is_measured_and_what_is_published_are_told_apart(page: Path) -> None:
    measured, published = page.read_text("utf-8").split("What is published, on COCO")
    assert "Not measured here" in published
    assert '<table class="ours">' in measured
    assert '<table class="published">' not in measured
    assert "Deformable DETR, table 1, val2017" not in measured
    assert "<td>43.8</td>" in published


def test_a_report_says_what_is_missing_and_how_it_was_made(out: Path) -> None:
    failed = out / "detr-dc5" / "seed-0"
    failed.mkdir(parents=True)
    (failed / "failed.txt").write_text("the loss is not finite\n")
    write_report(out)
    text = (out / "report.md").read_text("utf-8")
    assert "Not complete: of 6 runs begun, 4 are done." in text
    assert 'Not trained: "DETR-DC5, a tenth as long", "DETR-DC5+".' in text
    assert "DETR-DC5, seed 0, failed: the loss is not finite" in text
    assert "| DETR-DC5 (failed) | - | - | - |" in text
    assert "hold 9 medium objects: their AP says little" in text
    assert "saccade study convergence --data 'FOLDER/cells | <b>' \\\n  --size nano" in text
    assert "--learning-rates detr=0.0001 \\\n  --num-threads 1 \\\n  --seeds 0 1" in text
    assert "--rows detr detr-dc5 deformable deformable-refine deformable-two-stage" in text
    assert "Abacus, 1 of 4 cores, torch 2.0" in text
    assert "anywhere" not in text
    assert str(out) not in text


def test_a_report_says_where_recipes_differ(out: Path) -> None:
    """DETR's family has no clipping at this size, and another weight of the classes."""
    lines = write_report(out).with_suffix(".md").read_text("utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith("- Learning rate")]
    others = "deformable deformable-refine deformable-two-stage"
    assert line.startswith(f"- Learning rate 0.0001 (detr), 0.0008 ({others}); images in a step 8;")
    assert "; class weight 1 (detr), 2 (deformable" in line
    assert "; class cost 1 (detr), 2 (deformable" in line
    assert f"; clip norm none (detr), 0.5 ({others});" in line
    assert "box weight" not in line


def test_the_command_can_be_repeated(out: Path) -> None:
    first, *rest = shlex.split(command(read_study(out)).replace("\\\n", " "))
    assert (first, rest[0]) == ("saccade", "study")
    arguments = tyro.cli(StudyArguments, args=rest[1:])
    assert arguments.data == Path("FOLDER/cells | <b>")
    assert arguments.learning_rates == ("detr=0.0001",)
    assert (arguments.num_threads, arguments.seeds) == (1, (0, 1))


def test_the_command_of_generated_images_asks_for_them_again(tmp_path: Path) -> None:
    keep_settings(settings(smoke=True), tmp_path)
    write_run(tmp_path, "detr", [0.1])
    text = command(read_study(tmp_path))
    assert text.startswith("saccade study convergence --smoke \\\n")
    assert "--data" not in text


def test_runs_on_different_machines_have_no_number_of_threads(out: Path) -> None:
    file = out / "deformable" / "seed-1" / "done.json"
    file.write_text(file.read_text().replace('"threads": 1', '"threads": 2'))
    assert "--num-threads" not in command(read_study(out))


def test_a_study_of_an_older_version_can_be_read(out: Path) -> None:
    file = out / "study.json"
    values = json.loads(file.read_text())
    del values["smoke"]
    file.write_text(json.dumps(values))
    assert not read_study(out).settings.smoke


def test_what_is_no_run_is_left_out(out: Path) -> None:
    (out / "deformable" / "seed-0-copy").mkdir()
    (out / "deformable" / "seed-01").mkdir()
    (out / "deformable" / "seed-5").write_text("not a folder")
    (out / "detr-dc5").mkdir()
    (out / "detr-dc5" / "seed-0.tar").write_text("")
    assert [run.seed for run in row_of(out, "deformable").runs] == [0, 1]
    assert "detr-dc5" in [row.key for row in read_study(out).missing]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"proc', "detr/seed-0/done.json cannot be read: Unterminated string"),
        ("[]", "detr/seed-0/done.json does not say on which processor, cores, threads, torch"),
        ('{"processor": "Abacus"}', "detr/seed-0/done.json does not say on which processor"),
    ],
)
def test_a_run_whose_end_cannot_be_read_is_not_done(text: str, message: str, out: Path) -> None:
    (out / "detr" / "seed-0" / "done.json").write_text(text)
    report = write_report(out).with_suffix(".md").read_text("utf-8")
    assert f"- DETR, seed 0, unfinished: {message}" in report
    assert "| DETR (unfinished) |" in report


def test_a_report_that_cannot_be_written_leaves_the_one_before(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_report(out)
    before = {each.name: each.read_bytes() for each in out.iterdir() if each.is_file()}

    def fail(first: Path, second: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_report(out)
    assert {each.name: each.read_bytes() for each in out.iterdir() if each.is_file()} == before
    assert file.exists()


def test_the_html_is_complete_in_itself(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text.count('src="data:image/png;base64,') == text.count("<img") == 3
    assert "<h1>How fast detectors learn: cells | &lt;b&gt;</h1>" in text
    assert "cells | <b>" not in text
    for name in ("curves", "finals", "sparsity-cross-attention"):
        assert (page.parent / f"{name}.png").exists()
        assert f"({name}.png)" in page.with_suffix(".md").read_text("utf-8")


def test_few_objects_and_a_single_seed_are_warned_of(tmp_path: Path) -> None:
    keep_settings(settings(), tmp_path)
    write_run(tmp_path, "deformable", [0.1, 0.2])
    few, single = cautions(read_study(tmp_path))
    assert few.startswith("The validation images hold 9 medium objects")
    assert "With one seed" in single


def test_curves_are_compared_at_the_same_epochs(out: Path) -> None:
    write_run(out, "deformable", [0.2], seed=2, every=3)
    result = row_of(out, "deformable")
    curve = mean_curve(result, "AP")
    assert curve is not None
    # Before its only evaluation, of epoch 3, the third run has no value.
    assert curve[0].tolist() == [3]
    expected = [[0.3], [0.1], [0.2]]
    np.testing.assert_allclose(curve[1], expected)
    assert mean_curve(result, "sparsity/encoder.layers.0.attention") is None


def test_a_line_that_is_being_written_is_left_out(out: Path) -> None:
    with (out / "deformable-two-stage" / "seed-0" / "evaluations.jsonl").open("a") as file:
        file.write('{"epoch": 3, "st')
    (run,) = row_of(out, "deformable-two-stage").runs
    assert [record["epochs"] for record in run.records] == [1, 2]


@pytest.mark.parametrize("name", [name for name in STUDIES if name != "convergence"])
def test_every_study_has_a_report(name: str, tmp_path: Path) -> None:
    kept = settings(name, learning_rates={})
    keep_settings(kept, tmp_path)
    row = STUDIES[name].pick("nano")[-1]
    folder = tmp_path / row.key / "seed-0"
    folder.mkdir(parents=True)
    write_yaml(run_config(row, kept, 0, Path("anywhere")), folder / "config.yaml")
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text("utf-8")
    assert STUDIES[name].title in text
    assert f"| {row.label} (unfinished) |" in text
    assert "![" not in text


def test_a_study_without_a_run_has_nothing_to_report(tmp_path: Path) -> None:
    keep_settings(settings(), tmp_path)
    with pytest.raises(ValueError, match="holds no run yet: there is nothing to report"):
        write_report(tmp_path)


def test_blocks_become_markdown_and_html() -> None:
    blocks = [
        Heading("H"),
        Paragraph("a < b"),
        Bullets(["x"]),
        Code("saccade"),
        Table(["", "AP"], [["one | two", "3"]], "ours"),
    ]
    text = to_markdown("Title", blocks)
    assert text.startswith("# Title\n\n## H\n\na < b\n\n- x\n\n```bash\nsaccade\n```\n\n")
    assert text.endswith("|  | AP |\n| --- | ---: |\n| one \\| two | 3 |\n")
    page = to_html("T & t", blocks)
    for part in ("<h1>T &amp; t</h1>", "<p>a &lt; b</p>", "<li>x</li>", "<td>one | two</td>"):
        assert part in page
