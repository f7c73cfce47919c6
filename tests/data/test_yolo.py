from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from saccade.data import SplitDataset, find_split
from tests.data.formats import write_picture

NAMES = ["cat", "dog"]


def write(folder: Path, labels: dict[str, str | None], **description: object) -> Path:
    """Pictures 32 wide and 16 high with label files of this content, or none."""
    for stem, content in labels.items():
        write_picture(folder / "images" / f"{stem}.png", (16, 32))
        if content is not None:
            file = folder / "labels" / f"{stem}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
    values = {"train": "images", "names": NAMES} | description
    (folder / "data.yaml").write_text(yaml.safe_dump(values))
    return folder


def touch_labelled(folder: Path, *images: str) -> None:
    for name in images:
        write_picture(folder / name, (16, 32))
        label = folder / name.replace("images", "labels").replace(".png", ".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.5 0.5 0.25 0.5\n")


def files(folder: Path, split: str) -> list[str]:
    return [
        sample.file.relative_to(folder).as_posix()
        for sample in SplitDataset(find_split(folder, split))
        if sample.file is not None
    ]


def test_rows_are_centre_and_size_as_fractions(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a": "1 0.5 0.5 0.25 0.5\n0 0.25 0.25 0.5 0.5\n", "b": "", "c": None})
    samples = list(SplitDataset(find_split(folder, "train")))
    assert samples[0].targets.boxes.tolist() == [[12, 4, 20, 12], [0, 0, 16, 8]]
    assert samples[0].targets.labels.tolist() == [1, 0]
    assert samples[0].targets.size == (16, 32)
    assert [len(sample.targets.labels) for sample in samples] == [2, 0, 0]
    assert [sample.targets.image_id for sample in samples] == [1, 2, 3]


def test_outlines_become_boxes_and_keep_their_area(tmp_path: Path) -> None:
    triangle = "0 0.25 0.25 0.75 0.25 0.5 0.75"
    turned = "1 0.5 0 1 0.5 0.5 1 0 0.5"
    folder = write(tmp_path, {"a": f"{triangle}\n{turned}\n0 0.5 0.5 0.5 0.5\n"})
    objects = find_split(folder, "train").read().objects
    assert [entry.box for entry in objects] == [(8, 4, 16, 8), (0, 0, 32, 16), (8, 4, 16, 8)]
    assert [entry.area for entry in objects] == [64, 256, 128]


def test_keypoints_after_the_box_are_not_read(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a": "0 0.5 0.5 0.25 0.5 0.1 0.1 2 0.9 0.9 1"}, kpt_shape=[2, 3])
    assert find_split(folder, "train").read().objects[0].box == (12, 4, 8, 8)


def test_boxes_that_stick_out_are_clipped(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a": "0 1.0 0.5 0.5 1.0001"})
    assert SplitDataset(find_split(folder, "train"))[0].targets.boxes.tolist() == [[24, 0, 32, 16]]


@pytest.mark.parametrize("names", [NAMES, {0: "cat", 1: "dog"}, {"1": "dog", "0": "cat"}])
def test_names_are_a_list_or_numbered(tmp_path: Path, names: object) -> None:
    folder = write(tmp_path, {"a": "1 0.5 0.5 0.25 0.5"}, names=names)
    dataset = SplitDataset(find_split(folder, "train"))
    assert dataset.class_names == ("cat", "dog")
    assert dataset[0].targets.labels.tolist() == [1]


def test_class_numbers_may_have_gaps(tmp_path: Path) -> None:
    labels = {"a": "7 0.5 0.5 0.25 0.5\n3.0 0.5 0.5 0.25 0.5"}
    folder = write(tmp_path, labels, names={7: "owl", 3: 2024})
    dataset = SplitDataset(find_split(folder, "train"))
    assert dataset.class_names == ("2024", "owl")
    assert dataset[0].targets.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "2 0.5 0.5 0.1 0.1",
            'the class is 2: expected one of 0 to 1, which "names" lists; classes',
        ),
        ("-1 0.5 0.5 0.1 0.1", "the class is -1: expected one of 0 to 1"),
        ("0.5 0.5 0.5 0.1 0.1", r"the class is 0\.5: expected"),
        ("0 0.5 0.5 0.1", "there are 4 numbers: expected five"),
        ("0 0.5 0.5 0.1 0.1 0.9", "there are 6 numbers: expected five"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "there are 8 numbers: expected five"),
        ("0 40 3 10 10", "40 is no fraction of the image: divide x and width by"),
        ("0 0.5 0.5 -0.1 0.1", r"the box is -0\.1 wide and 0\.1 high: expected at least 0"),
        ("0 0.5 nan 0.1 0.1", '"0 0.5 nan 0.1 0.1" is not a row of finite numbers'),
        ("cat 0.5 0.5 0.1 0.1", '"cat 0.5 0.5 0.1 0.1" is not a row of finite numbers'),
    ],
)
def test_names_the_unusable_row(tmp_path: Path, row: str, message: str) -> None:
    folder = write(tmp_path, {"a": f"0 0.5 0.5 0.1 0.1\n\n{row}\n"})
    with pytest.raises(ValueError, match=message) as raised:
        find_split(folder, "train").read()
    assert str(raised.value).startswith(f"{tmp_path / 'labels' / 'a.txt'}, line 3: ")


def test_labels_that_are_nowhere_are_told(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a": None, "b": None})
    with pytest.raises(
        ValueError, match=r"none of 2 images has a label file; looked for \S*/labels/a"
    ):
        find_split(folder, "train").read()


def test_a_label_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a": ""})
    (folder / "labels" / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"labels/a\.txt is not text"):
        find_split(folder, "train").read()


@pytest.mark.parametrize(
    ("description", "images"),
    [
        ({"train": "images/train", "val": "images/val"}, "images"),
        ({"path": "/gone/data", "train": "images/train", "val": "images/val"}, "images"),
        ({"path": "sub", "train": "images/train", "val": ["images/val"]}, "sub/images"),
        ({"train": "../train/images", "valid": "../val/images"}, "{split}/images"),
        ({"train": "train", "validation": "val"}, "{split}"),
    ],
)
def test_finds_images_and_labels_where_people_have_them(
    tmp_path: Path, description: dict[str, object], images: str
) -> None:
    place = {split: images.format(split=split) for split in ("train", "val")}
    if place["train"] == place["val"]:
        place = {split: f"{images}/{split}" for split in place}
    touch_labelled(tmp_path, f"{place['train']}/a.png", f"{place['val']}/b.png")
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(description | {"names": NAMES}))
    assert files(tmp_path, "train") == [f"{place['train']}/a.png"]
    assert files(tmp_path, "val") == [f"{place['val']}/b.png"]


def test_an_entry_may_name_lists_and_several_folders(tmp_path: Path) -> None:
    touch_labelled(tmp_path, "one/images/b.png", "one/images/c.png", "two/images/deep/a.png")
    touch_labelled(tmp_path, "two/images/.hidden.png", "two/images/.checkpoints/a.png")
    (tmp_path / "one" / "list.txt").write_text(f"./images/c.png\n{tmp_path}/one/images/c.png\n\n")
    entry = ["one/list.txt", "two/images"]
    values = {"train": entry, "names": NAMES}
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(values))
    assert files(tmp_path, "train") == ["one/images/c.png", "two/images/deep/a.png"]
    split = find_split(tmp_path, "train")
    assert [file.name for file in split.annotation_files()] == ["dataset.yaml", "c.txt", "a.txt"]
    assert split.read().images[0].file_name == "one/images/c.png"


def test_the_yaml_file_may_be_given_itself(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", {"a": "0 0.5 0.5 0.25 0.5"})
    file = (folder / "data.yaml").rename(folder / "animals.yaml")
    (folder / "notes.yaml").write_text("a: [")
    assert find_split(folder, "train") == find_split(file, "train")
    (folder / "copy.yaml").write_text(file.read_text())
    with pytest.raises(
        ValueError, match=r"has animals\.yaml and copy\.yaml: name one of the files"
    ):
        find_split(folder, "train")


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"names": None, "nc": 2}, r"data\.yaml has no \"names\": expected a list"),
        ({"names": [False, "yes"]}, "class 0 is named False: write the name in quotes"),
        ({"names": ["cat", "cat"]}, 'categories 0 and 1 are both named "cat"'),
        ({"names": {"a": "cat"}}, "\"names\" has the key 'a': expected whole numbers"),
        ({"nc": 3}, 'has 2 "names", but "nc" is 3'),
        ({"train": {"a": 1}}, "\"train\" is {'a': 1}: expected a folder"),
        (
            {"train": "nowhere"},
            r"names nowhere, which does not exist: looked for \S*/nowhere; correct",
        ),
        ({"train": "labels"}, r'"train" names \S*/labels, which holds no images'),
    ],
)
def test_an_unusable_description_is_named(
    tmp_path: Path, description: dict[str, object], message: str
) -> None:
    folder = write(tmp_path, {"a": "0 0.5 0.5 0.25 0.5"}, **description)
    with pytest.raises(ValueError, match=message):
        find_split(folder, "train")


def test_a_description_that_is_not_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: [")
    with pytest.raises(ValueError, match=r"data\.yaml is not YAML"):
        find_split(tmp_path, "train")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_boxes_lie_in_the_image_as_it_is_displayed(tmp_path: Path, suffix: str) -> None:
    folder = write(tmp_path, {"a": "0 0.25 0.125 0.5 0.25"})
    (folder / "images" / "a.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    # What is below at the left as stored is above at the left as displayed.
    pixels[8:, :8] = 255
    Image.fromarray(pixels).save(folder / "images" / f"a.{suffix}", exif=exif)
    sample = SplitDataset(find_split(folder, "train"))[0]
    assert sample.targets.size == (32, 16)
    assert sample.targets.boxes.tolist() == [[0, 0, 8, 8]]
    bright = (sample.image[0] > 128).nonzero()
    assert bright.amin(0).tolist() == [0, 0]
    assert bright.amax(0).tolist() == [7, 7]


def test_images_of_unreadable_size_are_refused_or_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a": "", "b": "0 0.5 0.5 0.25 0.5", "c": ""})
    (folder / "images" / "a.png").write_bytes(b"no image")
    split = find_split(folder, "train")
    with pytest.raises(ValueError, match=r"1 image is unusable: \S*a\.png cannot be read"):
        SplitDataset(split)
    with pytest.warns(
        UserWarning, match=r"Left out: 1 image is unusable: \S*a\.png cannot be read"
    ):
        dataset = SplitDataset(split, on_broken_image="skip")
    assert [sample.targets.image_id for sample in dataset] == [2, 3]


def test_a_listed_image_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a": "0 0.5 0.5 0.25 0.5"}, train="list.txt")
    (folder / "list.txt").write_text("images/a.png\nimages/gone.png\n")
    with pytest.raises(
        ValueError, match=r"1 image is unusable: \S*images/gone\.png does not exist\."
    ):
        SplitDataset(find_split(folder, "train"))
