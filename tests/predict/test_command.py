import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from saccade import Detector
from saccade.cli import main
from saccade.data import Split
from saccade.inference.looking import WholeImage
from saccade.model import DetectorModel
from saccade.predict import command
from tests.conftest import small_config


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # With sigmoids, so that every query speaks for both classes.
    config = small_config("learned")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    Detector(config, DetectorModel(config)).save_pretrained(folder)
    return folder


@pytest.fixture
def data(write_coco: Callable[..., Split]) -> Path:
    return write_coco({1: (48, 64), 2: (64, 48), 10: (48, 64)}).images


@pytest.fixture
def predict(weights: Path, tmp_path: Path) -> Callable[..., int]:
    def run(source: Path, *options: str) -> int:
        out = ["--out", str(tmp_path / "out"), "--threshold", "0", "--top-k", "3"]
        return main(["predict", str(source), "--weights", str(weights), *out, *options])

    return run


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "predictions.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_and_a_picture_for_each_image_and_broken_files_are_named(
    data: Path, predict: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "3.png").write_bytes(b"no image")
    out = tmp_path / "out"
    assert predict(data) == 2
    told = capsys.readouterr()
    assert "3.png cannot be read as an image" in told.err
    assert "1 of 4 images could not be read and were skipped: see" in told.err
    assert "9 objects in 3 images" in told.out
    pictures = {"1.jpg", "2.jpg", "10.jpg"}
    files = {path.name for path in out.iterdir()}
    assert files == {*pictures, "predictions.jsonl", "unreadable.jsonl"}
    records = lines(out)
    assert [Path(record["file"]).name for record in records] == ["1.png", "2.png", "10.png"]
    assert [record["picture"] for record in records] == ["1.jpg", "2.jpg", "10.jpg"]
    assert all(len(record["detections"]) == 3 for record in records)
    assert (records[1]["width"], records[1]["height"]) == (48, 64)
    (bad,) = (out / "unreadable.jsonl").read_text().splitlines()
    assert json.loads(bad)["file"] == str(data / "3.png")
    (data / "3.png").unlink()
    assert predict(data, "--no-pictures") == 0
    assert not (out / "unreadable.jsonl").exists()


def test_the_command_finds_what_the_predictor_finds(
    data: Path, weights: Path, predict: Callable[..., int], tmp_path: Path
) -> None:
    assert predict(data, "--no-pictures", "--batch-size", "4") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.jsonl"]
    detector = Detector.from_pretrained(weights)
    for record in lines(tmp_path / "out"):
        found = detector.predict(record["file"], threshold=0.0, top_k=3)
        boxes = [each["box"] for each in record["detections"]]
        np.testing.assert_allclose(boxes, found.xyxy, atol=0.02)


def test_coco_results_take_the_ids_of_annotations(
    data: Path, predict: Callable[..., int], tmp_path: Path
) -> None:
    annotations = data.parent / "annotations" / "train.json"
    assert predict(data, "--coco", str(annotations), "--no-pictures") == 0
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {result["image_id"] for result in results} == {1, 2, 10}
    assert {result["category_id"] for result in results} <= {1, 2}
    assert not (tmp_path / "out" / "images.json").exists()


def test_an_unreadable_image_keeps_its_number_in_coco_results(
    data: Path, predict: Callable[..., int], tmp_path: Path
) -> None:
    (data / "2.png").write_bytes(b"no image")
    assert predict(data, "--formats", "coco", "--no-pictures") == 2
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    images = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert {result["image_id"] for result in results} == {1, 3}
    assert [(each["id"], Path(each["file_name"]).name) for each in images] == [
        (1, "1.png"),
        (3, "10.png"),
    ]


def test_only_wanted_classes_are_reported(
    data: Path, predict: Callable[..., int], tmp_path: Path
) -> None:
    assert predict(data, "--classes", "dog", "--no-pictures", "--top-k", "100") == 0
    found = {each["class"] for record in lines(tmp_path / "out") for each in record["detections"]}
    assert found == {"dog"}


@pytest.mark.parametrize("options", [["--tile", "32", "--batch-size", "4"], ["--tta"]])
def test_tiles_and_several_views_find_something(
    options: list[str], data: Path, predict: Callable[..., int], tmp_path: Path
) -> None:
    assert predict(data, "--no-pictures", *options) == 0
    assert all(record["detections"] for record in lines(tmp_path / "out"))


def test_a_bomb_is_an_unreadable_file(
    data: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (2000, 1000)).save(data / "bomb.png")
    assert predict(data, "--max-megapixels", "1.5", "--no-pictures") == 2
    error = capsys.readouterr().err
    assert "bomb.png cannot be read as an image" in error
    assert "1 of 4 images" in error


def test_images_of_one_name_do_not_overwrite_each_other(
    data: Path, weights: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(data, other)
    out = tmp_path / "out"
    arguments = ["predict", str(data), str(other), "--weights", str(weights)]
    assert main([*arguments, "--out", str(out)]) == 0
    names = {f"{stem}{end}.jpg" for stem in (1, 2, 10) for end in ("", "-2")}
    assert {path.name for path in out.iterdir()} == {*names, "predictions.jsonl"}


def test_photographs_are_never_overwritten(
    data: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (data / "1.png").read_bytes()
    assert predict(data, "--out", str(data)) == 2
    assert "holds the images themselves: name another folder" in capsys.readouterr().err
    assert (data / "1.png").read_bytes() == before


def test_results_do_not_go_to_a_file(
    data: Path, predict: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert predict(data, "--out", str(tmp_path / "file")) == 2
    assert "file is a file: name a folder for the results" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--tile", "1000000"]])
def test_an_image_of_one_row_is_skipped_and_named(
    options: list[str], data: Path, predict: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (3_000_000, 1)).save(data / "row.png")
    assert predict(data, "--no-pictures", *options) == 2
    error = capsys.readouterr().err
    assert "row.png: the image is 3000000 x 1 pixels, too long and narrow" in error
    assert "1 of 4 images" in error


def test_nor_are_those_that_links_point_to(
    data: Path, predict: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    links = tmp_path / "links"
    links.mkdir()
    (links / "a.png").symlink_to(data / "1.png")
    assert predict(links, "--out", str(data)) == 2
    assert "holds the images themselves: name another folder" in capsys.readouterr().err


def test_what_was_found_before_an_interruption_is_there(
    data: Path,
    predict: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    everything = command.look_at_all

    def two(*arguments: Any) -> Iterator[Any]:
        for number, answer in enumerate(everything(*arguments)):
            if number == 2:
                raise KeyboardInterrupt
            yield answer

    monkeypatch.setattr(command, "look_at_all", two)
    assert predict(data, "--formats", "jsonl", "coco") == 130
    assert "interrupted after 2 of 3 images: what was found is in" in capsys.readouterr().err
    out = tmp_path / "out"
    assert len(lines(out)) == 2
    assert len(json.loads((out / "predictions.json").read_text())) == 6
    for record in lines(out):
        with Image.open(out / record["picture"]) as picture:
            picture.load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threshold", "30"], "threshold is 30.0: expected a score between 0 and 1"),
        (["--top-k", "0"], "top_k is 0: expected at least one detection"),
        (["--batch-size", "0"], "batch_size is 0: expected at least one image"),
        (["--device", "abacus"], '--device is "abacus", which torch cannot use here'),
        (["--classes", "dig"], 'there is no class "dig": the closest is "dog"'),
        (["--tile", "4"], "the tile's side is 4 pixels: expected 32 or more"),
        (["--tile", "64", "--tile-overlap", "20"], "the overlap of tiles is 20.0"),
        (["--tile", "64", "--tta"], "--tile and --tta exclude each other"),
        (["--max-megapixels", "0"], "the limit is 0.0 megapixels"),
        (["--coco", "nowhere.json"], "nowhere.json"),
        (["--no-pictures", "--formats"], "nothing would be written: leave out --no-pictures"),
    ],
)
def test_unusable_options_are_refused_before_anything_is_written(
    options: list[str],
    message: str,
    data: Path,
    predict: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert predict(data, *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_options_an_image_is_shown_as_it_is() -> None:
    arguments = command.PredictArguments(sources=("a.jpg",), weights="x")
    assert isinstance(command.way_of_looking(arguments), WholeImage)
