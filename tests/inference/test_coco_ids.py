import json
from pathlib import Path

import pytest

from saccade.inference.coco_ids import ids_of, numbered

CATEGORIES = {18: "dog", 17: "cat", 3: "car"}


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    names = {4: "1.jpg", 9: "night/1.jpg", 2: "2.jpg"}
    content = {
        "images": [
            {"id": id, "file_name": name, "height": 10 + id, "width": 20}
            for id, name in names.items()
        ],
        "annotations": [],
        "categories": [{"id": id, "name": name} for id, name in CATEGORIES.items()],
    }
    file = tmp_path / "val.json"
    file.write_text(json.dumps(content))
    return file


def test_images_are_known_by_the_longest_end_of_their_path(annotations: Path) -> None:
    files = [Path("/data/night/1.jpg"), Path("photos/2.jpg"), Path("/data/day/1.jpg")]
    ids = ids_of(annotations, files, ["cat", "dog"])
    assert ids.images == (9, 2, 4)
    assert ids.sizes == ((19, 20), (12, 20), (14, 20))


def test_categories_are_known_by_name(annotations: Path) -> None:
    ids = ids_of(annotations, [Path("2.jpg")], ["cat", "cow", "dog"])
    assert ids.categories == {0: 17, 2: 18}


def test_without_annotations_everything_is_numbered_from_one() -> None:
    ids = numbered(2, 3)
    assert (ids.images, ids.categories, ids.sizes) == ((1, 2), {0: 1, 1: 2, 2: 3}, None)


@pytest.mark.parametrize(
    ("files", "names", "message"),
    [
        (["3.jpg"], ["cat"], "3.jpg is not among the 3 images of .*val.json"),
        (
            ["2.jpg", "3.jpg", "5.jpg", "6.jpg"],
            ["cat"],
            "3.jpg and 2 others are not among the 3 images",
        ),
        (["a/2.jpg", "b/2.jpg"], ["cat"], "a/2.jpg and b/2.jpg are both image 2 of"),
        (["2.jpg"], ["cow"], "has the categories .*dog.*, but the detector knows cow: none in"),
    ],
)
def test_annotations_of_something_else_are_refused(
    files: list[str], names: list[str], message: str, annotations: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        ids_of(annotations, [Path(file) for file in files], names)
