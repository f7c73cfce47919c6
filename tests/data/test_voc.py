from pathlib import Path

import pytest
from PIL import Image

from saccade.data import SplitDataset, find_split
from tests.data.formats import (
    Marked,
    Pictures,
    voc_object,
    write_picture,
    write_voc_annotation,
    write_voc_format,
)

CAT, DOG = Marked("cat", (2, 4, 10, 8)), Marked("dog", (0, 0, 32, 16))
PICTURES: Pictures = {"a": ((16, 32), [DOG, CAT]), "b": ((16, 32), [])}


def objects(*marked: Marked) -> str:
    return "".join(map(voc_object, marked))


def test_corners_are_counted_from_1_and_included(tmp_path: Path) -> None:
    dataset = SplitDataset(find_split(write_voc_format(tmp_path, PICTURES), "train"))
    assert dataset.class_names == ("cat", "dog")
    assert dataset[0].targets.boxes.tolist() == [[0, 0, 32, 16], [2, 4, 10, 8]]
    assert dataset[0].targets.labels.tolist() == [1, 0]
    assert dataset[1].targets.boxes.shape == (0, 4)
    assert [sample.targets.image_id for sample in dataset] == [1, 2]


def test_classes_are_those_of_all_splits(tmp_path: Path) -> None:
    write_voc_format(tmp_path, {"a": ((16, 32), [DOG])}, "train")
    write_voc_format(tmp_path, {"b": ((16, 32), [CAT])}, "val")
    for split, label in (("train", 1), ("val", 0)):
        dataset = SplitDataset(find_split(tmp_path, split))
        assert dataset.class_names == ("cat", "dog")
        assert dataset[0].targets.labels.tolist() == [label]


@pytest.mark.parametrize("place", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_finds_the_folders_of_the_challenge(tmp_path: Path, place: str) -> None:
    write_voc_format(tmp_path / place, PICTURES, "val")
    (tmp_path / place / "ImageSets" / "Main" / "cat_val.txt").write_text("a 1\n")
    split = find_split(tmp_path, "val")
    assert split.images == tmp_path / place / "JPEGImages"
    assert [file.name for file in split.annotation_files()] == ["a.xml", "b.xml"]
    with pytest.raises(ValueError, match=r"Splits there: val\.$"):
        find_split(tmp_path, "test")


def test_two_years_of_the_challenge_are_not_mixed(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        write_voc_format(tmp_path / "VOCdevkit" / year, PICTURES, "val")
    with pytest.raises(ValueError, match=r'"val" more than once: name \S*VOC2007 and \S*VOC2012\.'):
        find_split(tmp_path, "val")


def test_finds_annotations_beside_images(tmp_path: Path) -> None:
    for folder, name, marked in (("train", "a", DOG), ("valid", "b", CAT)):
        write_picture(tmp_path / folder / f"{name}.png", (16, 32))
        write_voc_annotation(tmp_path / folder / f"{name}.xml", (16, 32), objects(marked))
    dataset = SplitDataset(find_split(tmp_path, "val"))
    assert dataset.class_names == ("cat", "dog")
    assert dataset[0].file == tmp_path / "valid" / "b.png"
    with pytest.raises(ValueError, match=r"Splits there: train, valid\.$"):
        find_split(tmp_path, "test")


def test_the_parts_of_a_person_are_no_objects(tmp_path: Path) -> None:
    write_voc_format(tmp_path, PICTURES)
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    whole = objects(CAT).replace("</object>", f"{part}</object>")
    write_voc_annotation(tmp_path / "Annotations" / "b.xml", (16, 32), whole)
    dataset = SplitDataset(find_split(tmp_path, "train"))
    assert dataset.class_names == ("cat", "dog")
    assert dataset[1].targets.boxes.tolist() == [[2, 4, 10, 8]]


@pytest.mark.parametrize("said", ["wrong.jpg", "../../b.png", "", "b.png"])
def test_images_are_found_by_the_name_of_their_annotations(tmp_path: Path, said: str) -> None:
    write_voc_format(tmp_path, PICTURES)
    file = tmp_path / "Annotations" / "a.xml"
    file.write_text(file.read_text().replace("a.png", said))
    dataset = SplitDataset(find_split(tmp_path, "train"))
    assert dataset[0].file == tmp_path / "JPEGImages" / "a.png"


def test_an_image_may_have_another_name_if_none_has_this(tmp_path: Path) -> None:
    write_voc_format(tmp_path, PICTURES)
    (tmp_path / "Annotations" / "a.xml").rename(tmp_path / "Annotations" / "c.xml")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("c\n")
    assert SplitDataset(find_split(tmp_path, "train"))[0].file == tmp_path / "JPEGImages" / "a.png"


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_a_size_that_is_not_said_is_the_displayed_images(tmp_path: Path, size: str) -> None:
    write_voc_format(tmp_path, PICTURES)
    file = tmp_path / "Annotations" / "a.xml"
    text = file.read_text()
    file.write_text(text[: text.index("<size>")] + size + text[text.index("</size>") + 7 :])
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (16, 32)).save(tmp_path / "JPEGImages" / "a.png", exif=exif)
    assert SplitDataset(find_split(tmp_path, "train"))[0].targets.size == (16, 32)
    (tmp_path / "JPEGImages" / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1 image is unusable: \S*a\.png cannot be read"):
        SplitDataset(find_split(tmp_path, "train"))


@pytest.mark.parametrize("stated", [(16, 32), (32, 16)])
def test_boxes_lie_in_the_image_that_has_the_stated_size(
    tmp_path: Path, stated: tuple[int, int]
) -> None:
    write_voc_format(tmp_path, PICTURES)
    write_voc_annotation(tmp_path / "Annotations" / "a.xml", stated, objects(CAT))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (32, 16)).save(tmp_path / "JPEGImages" / "a.png", exif=exif)
    sample = SplitDataset(find_split(tmp_path, "train"))[0]
    assert tuple(sample.image.shape[1:]) == sample.targets.size == stated


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"a\.xml is not XML"),
        ("<annotation>", r"a\.xml is not XML"),
        ("<annotations/>", r'a\.xml holds "annotations": expected "annotation"'),
        ("<annotation><object/></annotation>", r'a\.xml: object 1 has no "name"'),
        (
            "<annotation><size><width>9</width><height>9</height></size>"
            "<object><name>cat</name></object></annotation>",
            r'a\.xml: "cat" has the "bndbox" \? \? \? \?: expected xmin ymin xmax ymax',
        ),
    ],
)
def test_an_unusable_annotation_is_named(tmp_path: Path, content: str, message: str) -> None:
    write_voc_format(tmp_path, PICTURES)
    (tmp_path / "Annotations" / "a.xml").write_text(content)
    with pytest.raises(ValueError, match=message):
        find_split(tmp_path, "train").read()


@pytest.mark.parametrize(("old", "new"), [("<xmax>10<", "<xmax>1<"), ("<ymin>5<", "<ymin>nan<")])
def test_a_box_that_is_none_is_named(tmp_path: Path, old: str, new: str) -> None:
    write_voc_format(tmp_path, PICTURES)
    file = tmp_path / "Annotations" / "a.xml"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ValueError, match=r'a\.xml: "cat" has the "bndbox" 3 '):
        find_split(tmp_path, "train").read()


def test_a_listed_annotation_that_is_missing_is_named(tmp_path: Path) -> None:
    write_voc_format(tmp_path, PICTURES)
    (tmp_path / "Annotations" / "b.xml").unlink()
    with pytest.raises(ValueError, match=r"b\.xml does not exist, though its image is listed"):
        find_split(tmp_path, "train").read()


def test_lists_stay_in_the_folder_of_annotations(tmp_path: Path) -> None:
    write_voc_format(tmp_path, PICTURES)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("../../secret\n")
    with pytest.raises(ValueError, match=r"train\.txt lists '../../secret': expected names inside"):
        find_split(tmp_path, "train")
