"""Reports of made-up runs."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from saccade.analysis.study import STUDIES
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
from saccade.analysis.study.results import read_study
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
    assert "saccade study convergence --data FOLDER/cells | <b> \\\n  --size nano" in text
    assert "--learning-rates detr=0.0001 \\\n  --seeds 0 1" in text
    assert "--rows detr detr-dc5 deformable deformable-refine deformable-two-stage" in text
    assert "Abacus, 1 of 4 cores, torch 2.0" in text
    assert "anywhere" not in text
    assert str(out) not in text


def test_the_html_is_complete_in_itself(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text.count('src="data:image/png;base64,') == text.count("<img") == 3
    assert "cells | &lt;b&gt;" in text
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
    result = read_study(out).row("deformable")
    assert result is not None
    curve = mean_curve(result, "AP")
    assert curve is not None
    assert curve[0].tolist() == [1, 2, 3]
    expected = [[0.1, 0.2, 0.3], [0.1, 0.1, 0.1], [0.2, 0.2, 0.2]]
    np.testing.assert_allclose(curve[1], expected)
    assert mean_curve(result, "sparsity/encoder.layers.0.attention") is None


def test_a_line_that_is_being_written_is_left_out(out: Path) -> None:
    with (out / "deformable-two-stage" / "seed-0" / "evaluations.jsonl").open("a") as file:
        file.write('{"epoch": 3, "st')
    result = read_study(out).row("deformable-two-stage")
    assert result is not None
    assert [record["epochs"] for record in result.runs[0].records] == [1, 2]


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
