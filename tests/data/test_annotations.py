import json
from pathlib import Path
from typing import Any

import pytest

from saccade.data.annotations import ImageEntry, ObjectEntry, read_annotations

IMAGE = {"id": 7, "file_name": "a.jpg", "height": 10, "width": 20}
OBJECT = {"id": 3, "image_id": 7, "category_id": 0, "bbox": [1, 2, 3, 4]}
CATEGORY = {"id": 0, "name": "cat", "supercategory": "animal"}


def write(tmp_path: Path, **lists: Any) -> Path:
    file = tmp_path / "train.json"
    content = {"images": [IMAGE], "annotations": [OBJECT], "categories": [CATEGORY]} | lists
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return file


def test_reads_images_objects_and_categories(tmp_path: Path) -> None:
    crowd = OBJECT | {"id": 4, "iscrowd": 1, "area": 5.5}
    file = write(tmp_path, images=[IMAGE | {"id": 9}, IMAGE], annotations=[OBJECT, crowd])
    annotations = read_annotations(file)
    assert annotations.images == (
        ImageEntry(7, "a.jpg", (10, 20)),
        ImageEntry(9, "a.jpg", (10, 20)),
    )
    assert annotations.objects == (
        ObjectEntry(7, 0, (1.0, 2.0, 3.0, 4.0), area=12.0, crowd=False),
        ObjectEntry(7, 0, (1.0, 2.0, 3.0, 4.0), area=5.5, crowd=True),
    )
    assert annotations.categories == {0: "cat"}


@pytest.mark.parametrize("area", [None, 12])
def test_a_null_area_is_that_of_the_box(tmp_path: Path, area: float | None) -> None:
    annotations = read_annotations(write(tmp_path, annotations=[OBJECT | {"area": area}]))
    assert annotations.objects[0].area == 12


def test_categories_come_in_order_of_id(tmp_path: Path) -> None:
    listed = [{"id": 90, "name": "b"}, {"id": -1, "name": "c"}, CATEGORY]
    annotations = read_annotations(write(tmp_path, categories=listed))
    assert list(annotations.categories.items()) == [(-1, "c"), (0, "cat"), (90, "b")]


def test_leaves_out_the_placeholder_of_roboflow(tmp_path: Path) -> None:
    listed = [
        {"id": 0, "name": "fish", "supercategory": "none"},
        {"id": 1, "name": "fish", "supercategory": "fish"},
    ]
    objects = [OBJECT | {"category_id": 1}]
    annotations = read_annotations(write(tmp_path, categories=listed, annotations=objects))
    assert annotations.categories == {1: "fish"}


@pytest.mark.parametrize(
    "listed",
    [
        [{"id": 0, "name": "fish", "supercategory": "none"}, {"id": 1, "name": "crab"}],
        [{"id": 0, "name": "fish", "supercategory": "fish"}, {"id": 1, "name": "crab"}],
    ],
)
def test_keeps_other_categories_without_objects(tmp_path: Path, listed: list[Any]) -> None:
    annotations = read_annotations(write(tmp_path, categories=listed, annotations=[]))
    assert annotations.categories == {0: "fish", 1: "crab"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox": [1, 2, 3]}, r'annotation 3 has "bbox" \[1, 2, 3\]: expected four finite numbers'),
        ({"bbox": [1, 2, 3, float("nan")]}, "annotation 3 .*four finite numbers"),
        ({"bbox": [1, 2, float("inf"), 4]}, "annotation 3 .*four finite numbers"),
        ({"bbox": [1, 2, "3", 4]}, "annotation 3 .*four finite numbers"),
        ({"bbox": None}, "annotation 3 .*four finite numbers"),
        ({"bbox": [9, 9, -3, 4]}, "annotation 3 .*not two corners"),
        ({"bbox": [9, 9, 3, -4]}, "annotation 3 .*not two corners"),
        ({"area": float("nan")}, 'annotation 3 has "area" nan'),
        ({"image_id": 8}, 'annotation 3 has "image_id" 8, which "images" does not list'),
        ({"category_id": 5}, 'annotation 3 has "category_id" 5, which "categories" does not list'),
        ({"image_id": 10**400}, 'annotation 3 has "image_id" 10+: expected a whole number of at'),
        ({"image_id": 2**63}, 'annotation 3 has "image_id" 9223372036854775808: expected a whole'),
        ({"id": 5, "bbox": [1, 2, 10**400, 4]}, "annotation 5 .*four finite numbers"),
        ({"category_id": "cat"}, """annotation 3 has "category_id" 'cat': expected a whole"""),
    ],
)
def test_names_the_unusable_annotation(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    file = write(tmp_path, annotations=[OBJECT | {"id": 2}, OBJECT | changes])
    with pytest.raises(ValueError, match=message) as raised:
        read_annotations(file)
    assert str(raised.value).startswith(f"{file}: ")


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox"])
def test_names_the_key_that_an_annotation_lacks(tmp_path: Path, key: str) -> None:
    broken = {name: value for name, value in OBJECT.items() if name != key}
    with pytest.raises(ValueError, match=f'annotation 3 has no "{key}"'):
        read_annotations(write(tmp_path, annotations=[broken]))


def test_names_the_position_of_an_entry_without_id(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'annotation at position 1 \(from 0\) has no "bbox"'):
        read_annotations(write(tmp_path, annotations=[OBJECT, {}]))
    with pytest.raises(ValueError, match=r"annotation at position 0 .* is 5: expected an object"):
        read_annotations(write(tmp_path, annotations=[5]))


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"images": [IMAGE, IMAGE]}, "image 7 is listed twice"),
        ({"images": [IMAGE | {"height": 0}]}, "image 7 is 20 x 0 pixels: expected a positive"),
        ({"images": [IMAGE | {"height": 10**30}]}, r'image 7 has "height" 10+: expected a whole'),
        ({"categories": [CATEGORY | {"id": 10**400}]}, '"id" 10+: expected a whole number'),
        ({"images": [IMAGE | {"file_name": 5}]}, 'image 7 has "file_name" 5: expected text'),
        ({"categories": [CATEGORY, CATEGORY]}, "category 0 is listed twice"),
        ({"categories": [CATEGORY, CATEGORY | {"id": 1}]}, '0 and 1 are both named "cat"'),
        ({"categories": None}, 'has no list "categories"'),
        ({"annotations": {}}, 'has no list "annotations"'),
    ],
)
def test_refuses_unusable_lists(tmp_path: Path, lists: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_annotations(write(tmp_path, **lists))


@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "/etc/secret.png"])
def test_file_names_stay_in_the_folder_of_images(tmp_path: Path, name: str) -> None:
    message = f'train.json: image 7 has "file_name" {name!r}: expected a path inside the folder of'
    with pytest.raises(ValueError, match=message):
        read_annotations(write(tmp_path, images=[IMAGE | {"file_name": name}]))


def test_file_names_may_name_folders(tmp_path: Path) -> None:
    listed = [IMAGE | {"file_name": "a..b/c.png"}]
    assert read_annotations(write(tmp_path, images=listed)).images[0].file_name == "a..b/c.png"


@pytest.mark.parametrize(
    "content", [b"", b"[" * 99999, b'{"images": [', b"\xff\xfe\xfa", b"[1, 2]"]
)
def test_refuses_what_is_no_annotation_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken.json .*expected a COCO annotation file"):
        read_annotations(file)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"absent\.json"):
        read_annotations(tmp_path / "absent.json")
