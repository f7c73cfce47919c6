"""The command on a Ray of two CPUs that the tests of this file share."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray

from saccade.bulk.arguments import BulkArguments
from saccade.bulk.cluster import require_extra
from saccade.bulk.parts import part_name
from saccade.cli import main
from saccade.predict import on_ray
from tests.bulk.sources import png, write_images, write_parquet, write_tar

# Ray's own, about its own defaults.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")


@pytest.fixture(scope="module")
def _ray_here() -> Iterator[None]:
    require_extra()
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=80 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture
def predict(weights: Path, tmp_path: Path) -> Callable[..., int]:
    def run(*arguments: object, engine: str = "ray", out: str = "out") -> int:
        options = ["--out", str(tmp_path / out), "--threshold", "0", "--top-k", "3"]
        words = map(str, arguments)
        return main(["predict", *words, "--weights", str(weights), "--engine", engine, *options])

    return run


def rows(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out).to_pylist()


@pytest.mark.slow
@pytest.mark.usefixtures("_ray_here")
def test_every_image_is_looked_at_once_and_as_the_local_engine_does(
    predict: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = write_images(tmp_path / "images", 5)
    (folder / "3.png").write_bytes(b"no image")
    tar = write_tar(tmp_path / "a.tar", {"1.png": png(1), "1.json": b"{}", "2.png": png(2)})
    parquet = write_parquet(tmp_path / "b.parquet", {"image": [png(0), png(1), None]})
    out = tmp_path / "out"
    sources = (folder, tar, parquet, "--shard-size", 2, "--actors", 1)
    assert predict(*sources, "--batch-size", 2) == 2
    told = capsys.readouterr()
    assert "images/s on Ray" in told.out
    assert "24 objects in 8 images: 6 Parquet files in" in told.out
    assert "3.png cannot be read as an image (cannot identify image file): is it" in told.err
    assert "2 of 10 images could not be read" in told.err

    found = rows(out)
    files = [str(folder / f"{number}.png") for number in range(5)]
    assert [(row["file"], row["key"]) for row in found] == [
        *((file, file) for file in files),
        (str(tar), "1.png"),
        (str(tar), "2.png"),
        *((str(parquet), str(number)) for number in range(3)),
    ]
    assert [row["key"] for row in found if row["error"]] == [files[3], "2"]

    assert predict(folder, "--no-pictures", engine="local", out="local") == 2
    lines = (tmp_path / "local" / "predictions.jsonl").read_text().splitlines()
    local = {record["file"]: record for record in map(json.loads, lines)}
    # The same picture by each way.
    for number, place in [(0, 0), (1, 1), (2, 2), (4, 4), (1, 5), (2, 6), (0, 7), (1, 8)]:
        expected, row = local[files[number]]["detections"], found[place]
        assert (row["height"], row["width"], row["error"]) == (48, 64, None)
        boxes = [each["box"] for each in expected]
        np.testing.assert_allclose(row["boxes"], boxes, atol=0.02)
        np.testing.assert_allclose(row["scores"], [each["score"] for each in expected], atol=1e-3)
        assert row["classes"] == [each["class"] for each in expected]
        assert row["labels"] == [["cat", "dog"].index(name) for name in row["classes"]]

    # What is there is not looked at again, and what is not is.
    asked = []
    monkeypatch.setattr(on_ray, "look_at_shards", lambda job, left, *rest: asked.extend(left))
    assert predict(*sources) == 2
    assert asked == []
    (out / part_name(1)).unlink()
    (out / part_name(4)).write_bytes(b"half")
    assert predict(*sources) == 2
    assert [number for number, _ in asked] == [1, 4]
    assert "2 of 6 files of results are not in" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("_ray_here")
def test_what_goes_wrong_in_a_process_is_one_sentence(
    predict: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tar = write_tar(tmp_path / "a.tar", {"1.png": png(1)})
    assert predict(tar, "--device", "abacus") == 2
    error = capsys.readouterr().err
    assert '--device is "abacus", which torch cannot use here' in error
    assert "repeat the command to go on" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--formats", "coco"], "leave out --formats and --coco"),
        (["--classes", "dig"], 'there is no class "dig": the closest is "dog"'),
        (["--shard-size", "0"], "--shard-size is 0"),
        (["--actors", "0"], "--actors is 0"),
        (["--max-megapixels", "0"], "the limit is 0.0 megapixels"),
        (["--tile", "4"], "the tile's side is 4 pixels"),
        (["no-such-folder"], "no-such-folder does not exist"),
    ],
)
def test_unusable_options_are_refused_before_anything_is_written(
    options: list[str],
    message: str,
    predict: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = write_images(tmp_path / "images", 1)
    assert predict(folder, *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_for_the_results_must_be_named(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "x", "--weights", str(weights), "--engine", "ray"]) == 2
    assert "--engine ray needs --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.tar"], "a.tar is no local image file or folder: add --engine ray"),
        (["s3://bucket/photos"], "s3://bucket/photos is no local image file or folder"),
        (["x.png", "--actors", "2"], "--actors, --gpus-per-actor"),
    ],
)
def test_the_local_engine_names_what_needs_ray(
    arguments: list[str],
    message: str,
    predict: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert predict(*arguments, engine="local") == 2
    assert message in capsys.readouterr().err


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("saccade.bulk.cluster.import_module", missing)
    with pytest.raises(ValueError, match=r"needs pyarrow.* pip install 'saccade\[bulk\]'"):
        require_extra()


def test_the_options_have_defaults() -> None:
    assert BulkArguments() == BulkArguments(shard_size=256, cpus_per_actor=1.0)
