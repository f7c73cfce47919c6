from pathlib import Path

import pyarrow as pa
import pytest

from saccade.bulk.listing import find_files
from saccade.bulk.shards import Shard, make_shards
from tests.bulk.sources import png, shards_of, write_images, write_parquet, write_tar


def test_images_are_divided_in_natural_order(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 11)
    shards = shards_of(folder, size=4)
    assert [shard.num_images for shard in shards] == [4, 4, 3]
    names = [Path(name).name for shard in shards for name in shard.names]
    assert names == [f"{number}.png" for number in range(11)]


def test_a_shard_survives_being_written_as_text(tmp_path: Path) -> None:
    rows = [png(number) for number in range(5)]
    parquet = write_parquet(tmp_path / "a.parquet", {"bytes": rows, "id": range(5)})
    tar = write_tar(tmp_path / "b.tar", {"x.png": png(1)})
    shards = shards_of(parquet, tar, write_images(tmp_path / "images", 3), key_column="id")
    assert [Shard.from_json(shard.to_json()) for shard in shards] == shards


@pytest.mark.parametrize(
    ("size", "groups"),
    [(1, [(0,), (1,), (2,)]), (4, [(0, 1), (2,)]), (100, [(0, 1, 2)])],
)
def test_row_groups_stay_whole(size: int, groups: list[tuple[int, ...]], tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", {"image": [png(n) for n in range(5)]})
    shards = shards_of(file, size=size)
    assert [shard.row_groups for shard in shards] == groups
    ends = [shard.first_row + (shard.num_images or 0) for shard in shards]
    assert [0, *ends[:-1]] == [shard.first_row for shard in shards]
    assert ends[-1] == 5


def test_folders_patterns_and_lists_name_tar_and_parquet_files_too(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 1)
    for name in ("10.tar", "2.tar", "._2.tar"):
        write_tar(tmp_path / name, {"x.png": png(1)})
    write_parquet(tmp_path / "3.parquet", {"image": [png(1)]})
    (tmp_path / "notes.txt").write_text("3.parquet\nimages/0.png\n")

    def names(source: str, recursive: bool = False) -> list[str]:
        return [Path(file.name).name for file in find_files([source], recursive)]

    assert names(str(tmp_path)) == ["2.tar", "3.parquet", "10.tar"]
    assert names(str(tmp_path), recursive=True) == ["2.tar", "3.parquet", "10.tar", "0.png"]
    assert names(f"{tmp_path}/*.tar") == ["2.tar", "10.tar"]
    assert names(str(tmp_path / "notes.txt")) == ["3.parquet", "0.png"]
    assert names(str(tmp_path / "images")) == ["0.png"]


def test_a_uri_means_what_a_path_means(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 11)
    (tmp_path / "list.txt").write_text(f"# first\n{folder.as_uri()}/3.png\n{folder.as_uri()}/0.png")

    def keys(source: str) -> list[str]:
        return [file.place.label(file.name) for file in find_files([source])]

    everything = [f"{folder.as_uri()}/{number}.png" for number in range(11)]
    assert keys(folder.as_uri()) == everything
    assert keys(f"{folder.as_uri()}/1*.png") == [everything[1], everything[10]]
    assert keys(f"{tmp_path.as_uri()}/**/2.png") == [everything[2]]
    assert keys(str(tmp_path / "list.txt")) == [everything[3], everything[0]]
    assert keys(f"{tmp_path.as_uri()}/list.txt") == [everything[3], everything[0]]
    (shard,) = make_shards(find_files([everything[4]]), 2)
    assert shard.place.read(shard.names[0]) == png(4)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("abacus://bucket/photos", "is at no place that pyarrow can read"),
        ("file:///no/such/folder", "file:///no/such/folder does not exist"),
        ("no-such-folder", "no-such-folder does not exist"),
    ],
)
def test_a_source_that_is_not_there_is_named(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_files([source])


def test_files_without_images_are_named(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "labels.tar", {"1.json": b"{}"})
    with pytest.raises(ValueError, match=r"labels\.tar holds no images: expected members such as"):
        shards_of(tar)
    broken = tmp_path / "broken.tar"
    broken.write_bytes(b"no tar file")
    with pytest.raises(ValueError, match=r"broken\.tar cannot be read as a tar file"):
        shards_of(broken)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"no Parquet file")
    with pytest.raises(ValueError, match=r"broken\.parquet cannot be read as a Parquet file"):
        shards_of(broken)
    with pytest.raises(ValueError, match="have no rows"):
        shards_of(write_parquet(tmp_path / "empty.parquet", {"image": pa.array([], "binary")}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"has no column image or bytes, but photo, name: name the one that holds images"),
        ({"image_column": "picture"}, r"has no column picture, but photo, name"),
        ({"image_column": "name"}, r"column name of .*a\.parquet is string: expected the bytes"),
        ({"image_column": "photo", "key_column": "id"}, r"has no column id, but photo, name"),
        ({"size": 0}, r"--shard-size is 0: expected at least one image"),
    ],
)
def test_columns_that_are_not_there_are_named(
    options: dict[str, str], message: str, tmp_path: Path
) -> None:
    file = write_parquet(tmp_path / "a.parquet", {"photo": [png(1)], "name": ["one"]})
    with pytest.raises(ValueError, match=message):
        shards_of(file, **options)
