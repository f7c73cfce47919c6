import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.doctor.findings import Severity
from saccade.doctor.image_checks import image_findings
from saccade.doctor.image_scan import scan_images
from saccade.doctor.reading import read_tables

from .datasets import (
    alarming,
    annotations,
    healthy,
    only,
    pattern,
    write_annotations,
    write_dataset,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data")


def findings_of(folder: Path) -> list:
    tables, unread = read_tables(folder)
    assert unread == []
    return image_findings(tables)


def test_a_healthy_dataset_has_nothing_to_say(folder: Path) -> None:
    assert findings_of(folder) == []


def test_a_broken_image_hurts_and_is_named(folder: Path) -> None:
    file = folder / "images" / "3.png"
    file.write_bytes(file.read_bytes()[:500])
    found = only(findings_of(folder))
    assert found.severity is Severity.HURTS
    assert found.what.startswith("1 image of train cannot be used")
    assert str(file) in found.what
    assert "--on-broken-image skip" in found.remedy


def test_the_first_few_broken_images_are_named(folder: Path) -> None:
    for number in (1, 3, 5, 7, 8):
        (folder / "images" / f"{number}.png").write_bytes(b"nothing")
    found = only(findings_of(folder))
    named = [number for number in range(1, 9) if f"{number}.png" in found.what]
    assert named == [1, 3, 5]
    assert found.what.endswith("; and 2 more)")


def test_a_broken_image_that_the_run_leaves_out_is_worth_a_look(folder: Path) -> None:
    (folder / "images" / "3.png").write_bytes(b"nothing")
    tables, _ = read_tables(folder)
    found = only(image_findings(tables, skipped=True))
    assert found.severity is Severity.LOOK
    assert "the run leaves them out" in found.what


def test_a_truncated_jpeg_image_hurts(folder: Path) -> None:
    tables, _ = read_tables(folder)
    file = folder / "images" / "3.png"
    pattern(3, (240, 320)).save(file, "JPEG")
    # The end is there, the middle is not.
    file.write_bytes(file.read_bytes()[:600] + b"\xff\xd9")
    assert only(image_findings(tables)).topic == "broken images"


def test_an_image_of_another_size_than_said_hurts(folder: Path) -> None:
    pattern(3, (64, 64)).save(folder / "images" / "3.png")
    assert "64 x 64 pixels, but its annotations say 320 x 240" in only(findings_of(folder)).what


def test_a_copy_in_another_split_hurts_and_is_shown(folder: Path) -> None:
    shutil.copy(folder / "images" / "2.png", folder / "images" / "101.png")
    found = only(findings_of(folder))
    assert found.severity is Severity.HURTS
    assert found.what.startswith("1 image of val (25 %) is in train too, the same")
    ((one, other),) = found.pairs
    assert (one.file.name, other.file.name) == ("2.png", "101.png")


def test_a_compressed_copy_in_another_split_is_found_by_its_looks(folder: Path) -> None:
    picture = pattern(2, (240, 320))
    picture.save(folder / "images" / "101.png", "JPEG", quality=40)
    assert "in train too, almost the same" in only(findings_of(folder)).what


def test_all_copies_of_one_picture_are_counted(folder: Path) -> None:
    picture = pattern(2, (240, 320))
    for number in (100, 101, 102):
        picture.save(folder / "images" / f"{number}.png", "JPEG", quality=40 + number % 5)
    found = next(each for each in findings_of(folder) if each.topic == "images in two splits")
    assert found.what.startswith("3 images of val (75 %) are in train too, almost the same")
    assert [one.file.name for one, _ in found.pairs] == ["2.png"] * 3


def test_an_image_that_two_splits_list_is_found(folder: Path) -> None:
    write_annotations(folder / "annotations" / "val.json", healthy(2, first_image=3))
    found = only(findings_of(folder))
    assert "2 images of val (100 %) are in train too, the same" in found.what


def test_copies_within_a_split_are_worth_a_look(folder: Path) -> None:
    shutil.copy(folder / "images" / "2.png", folder / "images" / "5.png")
    found = only(findings_of(folder))
    assert found.severity is Severity.LOOK
    assert found.what.startswith("1 image of train (12 %) is a copy of others")


@pytest.mark.parametrize(("largest", "dark"), [(4095, True), (60_000, False)])
def test_twelve_bits_in_files_of_sixteen_are_dark(tmp_path: Path, largest: int, dark: bool) -> None:
    folder = write_dataset(tmp_path / "data")
    for file in (folder / "images").iterdir():
        grey = np.asarray(Image.open(file).convert("L"), np.float64)
        deep = (grey / grey.max() * largest).astype(np.uint16)
        Image.fromarray(deep).save(file)
    found = [each for each in findings_of(folder) if each.topic == "dark images"]
    assert len(found) == dark
    if dark:
        assert found[0].severity is Severity.HURTS
        assert "no value above 4,095 of 65,535, as if they were of 12 bits" in found[0].what
        assert found[0].remedy.startswith("multiply their values by 16")


@pytest.mark.parametrize(
    ("values", "said"), [((0,), 0), ((3000, 60_000, 60_000), 0), ((60_000, *[4095] * 4), 1)]
)
def test_a_black_a_dim_or_a_bright_image_does_not_decide(
    folder: Path, values: tuple[int, ...], said: int
) -> None:
    for number, value in enumerate(values, start=1):
        deep = np.full((240, 320), value, np.uint16)
        Image.fromarray(deep).save(folder / "images" / f"{number}.png")
    found = [each for each in findings_of(folder) if each.topic == "dark images"]
    assert [each.what.startswith("4 images of 16 bits hold no") for each in found] == [True] * said


@pytest.mark.slow
def test_processes_that_are_spawned_see_what_this_one_sees(tmp_path: Path) -> None:
    files = []
    for seed in range(70):
        file = tmp_path / f"{seed}.png"
        pattern(seed).save(file)
        files.append((file, (96, 128)))
    files[40][0].write_bytes(b"nothing")
    seen: list[int] = []
    ours, theirs = scan_images(files), scan_images(files, seen.append, num_processes=2)
    assert sum(seen) == 70
    assert theirs.errors == ours.errors
    assert list(ours.errors) == [40]
    assert theirs.digests == ours.digests
    np.testing.assert_array_equal(theirs.hashes, ours.hashes)
    np.testing.assert_array_equal(theirs.thumbnails, ours.thumbnails)


def test_a_picture_turned_by_its_camera_is_known_again(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_dataset(folder, train=annotations([[]] * 2), val=annotations([[]], first_image=100))
    picture = pattern(1, (240, 320))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = picture.transpose(Image.Transpose.ROTATE_90)
    stored.save(folder / "images" / "100.png", "JPEG", exif=exif, quality=95)
    found = [each for each in alarming(findings_of(folder)) if each.topic != "classes"]
    assert "in train too, almost the same" in only(found).what
