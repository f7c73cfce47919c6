import os
from pathlib import Path

import pytest

from saccade.inference.sources import find_images, natural_order


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of empty files, seen from the folder above: nobody opens them here."""
    monkeypatch.chdir(tmp_path)
    for name in ("frame10.png", "frame2.png", "Frame1.png", "notes.md", "._frame2.png"):
        (tmp_path / "video").mkdir(exist_ok=True)
        (tmp_path / "video" / name).touch()
    for name in ("b/x2.JPG", "b/x10.jpg", "a/deep/y.webp", "top.jpg"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).touch()
    return Path()


def names(files: list[Path]) -> list[str]:
    return [file.as_posix() for file in files]


def test_frames_of_a_video_are_counted_as_people_count(photos: Path) -> None:
    found = names(find_images([Path("video")]))
    assert found == ["video/Frame1.png", "video/frame2.png", "video/frame10.png"]


def test_numbers_are_compared_by_value_even_with_zeros_before_them() -> None:
    order = natural_order(map(Path, ["a/10", "a/007", "a/7", "a2/1", "a/", "b"]))
    assert names(order) == ["a", "a/007", "a/7", "a/10", "a2/1", "b"]


def test_folders_within_are_looked_into_when_asked(photos: Path) -> None:
    assert names(find_images([Path("tree")])) == ["tree/top.jpg"]
    found = names(find_images([Path("tree")], recursive=True))
    assert found == ["tree/a/deep/y.webp", "tree/b/x2.JPG", "tree/b/x10.jpg", "tree/top.jpg"]


def test_hidden_folders_are_passed_over_as_hidden_files_are(photos: Path) -> None:
    for name in ("tree/.thumbnails", "tree/b/.git"):
        Path(name).mkdir()
        Path(name, "x.jpg").touch()
    assert len(find_images([Path("tree")], recursive=True)) == 4
    assert names(find_images([Path("tree/.thumbnails")])) == ["tree/.thumbnails/x.jpg"]


def test_a_folder_that_cannot_be_listed_is_not_taken_for_empty(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = os.scandir

    def scandir(place: str | Path) -> object:
        if Path(place).name == "deep":
            raise PermissionError(13, "Permission denied", str(place))
        return listed(place)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="deep"):
        find_images([Path("tree")], recursive=True)


def test_links_in_circles_end(photos: Path) -> None:
    Path("tree/b/again").symlink_to(Path("tree").absolute(), target_is_directory=True)
    assert len(find_images([Path("tree")], recursive=True)) == 4


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("video/*", ["video/Frame1.png", "video/frame2.png", "video/frame10.png"]),
        ("video/frame?.png", ["video/frame2.png"]),
        ("tree/**/*.jpg", ["tree/b/x10.jpg", "tree/top.jpg"]),
        ("tree/*/[a-z]2.JPG", ["tree/b/x2.JPG"]),
    ],
)
def test_patterns_are_expanded_by_us(pattern: str, expected: list[str], photos: Path) -> None:
    assert names(find_images([Path(pattern)])) == expected


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(photos: Path) -> None:
    Path("cat[1].jpg").touch()
    assert names(find_images([Path("cat[1].jpg")])) == ["cat[1].jpg"]


def test_a_list_names_images_beside_it_or_here_and_may_have_comments(photos: Path) -> None:
    absolute = Path("tree/top.jpg").absolute()
    lines = ["\ufeff# a list", "", "x10.jpg", "video/frame2.png", str(absolute), "missing.jpg"]
    Path("tree/b/list.txt").write_text("\r\n".join(lines), "utf-8")
    found = find_images([Path("tree/b/list.txt")])
    assert found == [
        Path("tree/b/x10.jpg"),
        Path("video/frame2.png"),
        absolute,
        Path("tree/b/missing.jpg"),
    ]


def test_the_order_of_sources_is_kept(photos: Path) -> None:
    sources = [Path("video/frame10.png"), Path("tree"), Path("video/frame2.png")]
    expected = ["video/frame10.png", "tree/top.jpg", "video/frame2.png"]
    assert names(find_images(sources)) == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.jpg", r"nowhere.jpg does not exist: expected an image file, a folder, a pattern"),
        ("empty", r"empty holds no image files \(those in the folders within need --recursive\)"),
        ("tree/*.gif", r"tree/\*.gif matches no image file"),
        ("video/*.md", r"matches no image file"),
        ("empty.txt", r"empty.txt names no images: expected a path per line"),
        ("latin.txt", r"latin.txt is not text in UTF-8"),
        ("film.MP4", r"film.MP4 is a video: write its frames to a folder \(ffmpeg"),
    ],
)
def test_what_is_no_source_is_refused(source: str, message: str, photos: Path) -> None:
    Path("empty").mkdir()
    Path("empty.txt").write_text("\n# nothing\n")
    Path("latin.txt").write_bytes("müll.jpg".encode("latin-1"))
    Path("film.MP4").touch()
    with pytest.raises(ValueError, match=message):
        find_images([Path(source)])
