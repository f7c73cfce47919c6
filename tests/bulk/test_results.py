from pathlib import Path

import pyarrow.parquet as pq
import pytest

from saccade.bulk import attempts
from saccade.bulk.folder import Folder
from saccade.bulk.manifest import Manifest, digest_of_shards, digest_of_weights
from saccade.bulk.parts import Summary, errors_in, finished, part_name, read_summary, write_part
from tests.bulk.sources import shards_of, write_images

ROWS = [
    {"file": "a", "key": "a", "scores": [0.5, 0.25], "boxes": [[0.0, 1.0, 2.0, 3.0]] * 2},
    {"file": "b", "key": "b", "error": "it is broken"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder.at(str(tmp_path / "out"))
    folder.create()
    return folder


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return Manifest({"threshold": 0.3, "classes": ("cat",)}, "weights", "images", 3)


def test_a_part_says_what_it_holds(folder: Folder) -> None:
    written = write_part(folder, 1, "print", ROWS)
    assert written == Summary(images=2, unreadable=1, objects=2)
    assert read_summary(folder, 1, "print") == written
    assert finished(folder, 3, "print") == {1: written}
    assert list(errors_in(folder, [1])) == ["it is broken"]
    table = pq.read_table(folder.root)
    assert table["key"].to_pylist() == ["a", "b"]
    assert table["boxes"].to_pylist() == [[[0.0, 1.0, 2.0, 3.0]] * 2, None]


def test_a_part_that_is_missing_broken_or_of_other_results_is_not_finished(folder: Folder) -> None:
    write_part(folder, 1, "print", ROWS)
    assert read_summary(folder, 0, "print") is None
    assert read_summary(folder, 1, "other") is None
    whole = Path(folder.path(part_name(1)))
    whole.with_name(part_name(2)).write_bytes(whole.read_bytes())
    assert read_summary(folder, 2, "print") is None
    whole.write_bytes(whole.read_bytes()[:-20])
    assert read_summary(folder, 1, "print") is None


def test_writing_that_fails_leaves_what_was_there(folder: Folder) -> None:
    write_part(folder, 0, "print", ROWS)

    def rows():
        yield ROWS[0]
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        write_part(folder, 0, "print", rows())
    assert folder.names() == [part_name(0)]
    assert read_summary(folder, 0, "print") is not None


def test_what_killed_processes_leave_is_removed_and_no_part_of_the_results(folder: Folder) -> None:
    write_part(folder, 0, "print", ROWS)
    leftover = Path(folder.path("_writing-0a-part-000000.parquet.partial"))
    leftover.write_bytes(b"half")
    Path(folder.path("_trying-000001-0")).touch()
    assert pq.read_table(folder.root).num_rows == 2
    folder.remove_partial()
    assert folder.names() == [part_name(0)]


def test_a_shard_on_which_processes_die_is_given_up(folder: Folder, tmp_path: Path) -> None:
    (shard,) = shards_of(write_images(tmp_path / "images", 2))
    for _ in range(attempts.MOST):
        attempts.begin(folder, 7, shard)
    with pytest.raises(ValueError, match=r"lost 4 times .* shard 7, .*0\.png to .*1\.png"):
        attempts.begin(folder, 7, shard)
    attempts.end(folder, 7)
    assert folder.names() == []


def test_a_folder_is_gone_on_with_in_the_same_way_only(
    folder: Folder, manifest: Manifest, tmp_path: Path
) -> None:
    manifest.hold(folder)
    manifest.hold(folder)
    options = {"threshold": 0.5, "classes": ("cat",)}
    with pytest.raises(ValueError, match=r"holds results of --threshold 0\.3, now 0\.5: go on"):
        Manifest(options, "weights", "images", 3).hold(folder)
    with pytest.raises(ValueError, match="holds results of other weights"):
        Manifest(manifest.options, "other", "images", 3).hold(folder)
    with pytest.raises(ValueError, match="holds results of other images or another --shard-size"):
        Manifest(manifest.options, "weights", "other", 3).hold(folder)
    assert Manifest(options, "weights", "images", 3).fingerprint != manifest.fingerprint


def test_a_folder_of_something_else_is_left_alone(folder: Folder, manifest: Manifest) -> None:
    Path(folder.path("sales.parquet")).write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds Parquet files and no _manifest\.json"):
        manifest.hold(folder)
    Path(folder.path("_manifest.json")).write_text("[1]")
    with pytest.raises(ValueError, match="is no manifest of this command"):
        manifest.hold(folder)


def test_digests_tell_images_and_weights_apart(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 3)
    before = digest_of_shards(shards_of(folder))
    assert before == digest_of_shards(shards_of(folder))
    assert before != digest_of_shards(shards_of(folder, size=3))
    (folder / "2.png").unlink()
    assert before != digest_of_shards(shards_of(folder))
    (folder / "weights").mkdir()
    weights = folder / "weights" / "model"
    weights.write_bytes(b"one")
    one = digest_of_weights(str(weights)), digest_of_weights(str(weights.parent))
    weights.write_bytes(b"two")
    two = digest_of_weights(str(weights)), digest_of_weights(str(weights.parent))
    assert one[0] != two[0]
    assert one[1] != two[1]
    assert digest_of_weights("who/knows") != digest_of_weights("who/else")
