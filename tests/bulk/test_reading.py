from pathlib import Path

import pytest

from saccade.bulk.reading import Entry, entries_of
from tests.bulk.sources import png, shards_of, write_images, write_parquet, write_tar


def keys_and_contents(shard_entries: list[Entry]) -> dict[str | None, bytes]:
    return {entry.key: entry.take() for entry in shard_entries}


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_tar_file_yields_its_images_by_name(name: str, tmp_path: Path) -> None:
    members = {"b/2.png": png(2), "2.json": b"{}", "._1.png": b"note", "1.PNG": png(1)}
    (shard,) = shards_of(write_tar(tmp_path / name, members))
    found = keys_and_contents(list(entries_of(shard)))
    assert found == {"b/2.png": png(2), "1.PNG": png(1)}


def test_a_tar_file_that_is_cut_off_yields_what_is_there_and_an_error(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "a.tar", {f"{n}.png": png(n) for n in range(3)})
    (shard,) = shards_of(file)
    whole = file.read_bytes()
    file.write_bytes(whole[: whole.index(b"2.png") + 1000])
    *entries, bad = entries_of(shard)
    assert keys_and_contents(entries) == {"0.png": png(0), "1.png": png(1)}
    assert bad.key is None
    with pytest.raises(ValueError, match=r"a\.tar is cut off or broken after 1\.png"):
        bad.take()


@pytest.mark.parametrize("nested", [False, True])
def test_rows_of_a_parquet_file_are_images(nested: bool, tmp_path: Path) -> None:
    contents = [png(number) for number in range(5)]
    images = [{"bytes": content, "path": "x"} for content in contents] if nested else contents
    file = write_parquet(tmp_path / "a.parquet", {"image": images, "id": list("abcde")})
    by_number = [entry for shard in shards_of(file) for entry in entries_of(shard)]
    assert keys_and_contents(by_number) == {str(n): png(n) for n in range(5)}
    by_key = [entry for shard in shards_of(file, key_column="id") for entry in entries_of(shard)]
    assert keys_and_contents(by_key) == {"abcde"[n]: png(n) for n in range(5)}


def test_a_row_without_an_image_is_an_error(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", {"image": [png(0), None]})
    (shard,) = shards_of(file)
    good, bad = entries_of(shard)
    assert good.take() == png(0)
    with pytest.raises(ValueError, match="column image of row 1 is empty"):
        bad.take()


def test_rows_behind_broken_pages_are_errors_and_none_is_missing(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", {"image": [png(n) for n in range(6)]}, 2)
    (shard,) = shards_of(file, size=6)
    content = bytearray(file.read_bytes())
    # The page's header: nobody can tell then where its rows are.
    start = content.index(png(4)[60:100]) - 120
    content[start : start + 60] = b"\xff" * 60
    file.write_bytes(content)
    entries = list(entries_of(shard))
    assert [entry.key for entry in entries] == [str(n) for n in range(6)]
    with pytest.raises(ValueError, match=r"row 5 of .*a\.parquet cannot be read"):
        entries[5].take()


def test_a_missing_image_file_is_an_error_of_its_own(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 2)
    (shard,) = shards_of(folder)
    (folder / "0.png").unlink()
    missing, present = entries_of(shard)
    assert present.take() == png(1)
    with pytest.raises(FileNotFoundError, match=r"0\.png"):
        missing.take()
