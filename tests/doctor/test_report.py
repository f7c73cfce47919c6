import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from saccade.doctor.examination import Examination, examine
from saccade.doctor.findings import Example, Finding, Severity
from saccade.doctor.report import verdict, write_report
from saccade.doctor.thumbnails import picture

from .datasets import NAMES, annotations, healthy, nano, pattern, write_dataset


def silent(what: str, total: int | None) -> Callable[[int], None]:
    return lambda count: None


def examined(folder: Path) -> Examination:
    return examine(folder, nano(), "deformable-detr-nano", silent, measured=False)


def test_the_report_is_one_file_with_its_pictures_and_without_addresses(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data <b>")
    shutil.copy(folder / "images" / "2.png", folder / "images" / "101.png")
    write_report(tmp_path / "report.html", examined(folder), "saccade doctor data")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert re.findall(r"(?:https?:)?//[\w.]+|@import|url\(|<script|<link", page) == []
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) == 2
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "<b>" not in page.split("<title>")[1].split("</title>")[0]
    assert "2.png and 101.png" in page
    assert "prefers-color-scheme: dark" in page
    for title in ("Objects of each class", "Sizes of objects", "Objects per image", "Sure to hurt"):
        assert title in page
    assert all(name in page for name in NAMES)


def test_the_report_of_a_healthy_dataset_says_so(tmp_path: Path) -> None:
    train = annotations([[(k, (10.0 * k, 30.0, 60.0, 60.0)) for k in (1, 2, 3)]] * 12)
    folder = write_dataset(tmp_path / "data", train=train)
    examination = examined(folder)
    write_report(tmp_path / "report.html", examination, "saccade doctor data")
    assert verdict(examination.findings) == "Nothing here will hurt a run."
    assert "Nothing here will hurt a run." in (tmp_path / "report.html").read_text("utf-8")


def test_a_dataset_of_which_nothing_can_be_read_has_a_report(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data", val=healthy(2, first_image=100))
    for file in (folder / "annotations").iterdir():
        file.write_text("{")
    examination = examined(folder)
    write_report(tmp_path / "report.html", examination, "saccade doctor data")
    assert [each.severity for each in examination.findings] == [Severity.HURTS] * 2
    assert "is not JSON" in (tmp_path / "report.html").read_text("utf-8")


def test_a_dataset_without_objects_has_a_report(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data", train=annotations([[]] * 3))
    write_report(tmp_path / "report.html", examined(folder), "saccade doctor data")
    assert "nothing to learn" in (tmp_path / "report.html").read_text("utf-8")


def test_the_verdict_counts() -> None:
    look = Finding(Severity.LOOK, "boxes", "small")
    bad = replace(look, severity=Severity.HURTS)
    assert verdict([look]) == "1 is worth a look."
    assert verdict([bad, look, look]) == (
        "1 thing here is sure to hurt a run and 2 more are worth a look."
    )
    assert verdict([bad, bad]) == "2 things here are sure to hurt a run."


@pytest.mark.parametrize("box", [(-5000.0, 10.0, -4000.0, 20.0), (5.0, 5.0, 5.0, 5.0)])
def test_boxes_of_every_kind_can_be_drawn(
    tmp_path: Path, box: tuple[float, float, float, float]
) -> None:
    pattern(0).save(tmp_path / "a.png")
    assert "data:image/jpeg" in picture(Example(tmp_path / "a.png", (96, 128), (box,)))


def test_images_that_cannot_be_read_leave_a_note(tmp_path: Path) -> None:
    assert "no-such.png cannot be read" in picture(Example(tmp_path / "no-such.png", (9, 9)))
