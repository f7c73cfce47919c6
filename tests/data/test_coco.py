from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saccade.data import CocoSplit, Split, SplitDataset, find_split
from saccade.structures import Sample

WriteCoco = Callable[..., Split]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("split", "annotations", "images"),
    [
        ("train", "annotations/train.json", "images"),
        ("val", "annotations/instances_val2017.json", "val2017"),
        ("val2017", "annotations/instances_val2017.json", "val2017"),
        ("test", "test/_annotations.coco.json", "test"),
        ("val", "valid/_annotations.coco.json", "valid"),
        ("valid", "valid/_annotations.coco.json", "valid"),
    ],
)
def test_finds_the_layouts_people_have(
    tmp_path: Path, split: str, annotations: str, images: str
) -> None:
    touch(tmp_path, annotations, f"{images}/a.jpg")
    assert find_split(tmp_path, split) == CocoSplit(tmp_path / images, tmp_path / annotations)


def test_says_what_it_looked_for_and_what_is_there(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "annotations/instances_train2017.json",
        "annotations/captions_train2017.json",
        "train2017/a.jpg",
        "annotations/instances_val2017.json",
        "valid/_annotations.coco.json",
    )
    with pytest.raises(ValueError, match=r"Splits there: train2017, valid\.$") as raised:
        find_split(tmp_path, "test")
    assert "annotations/instances_test2017.json with test2017/;" in str(raised.value)
    assert "test/_annotations.coco.json with test/;" in str(raised.value)
    assert 'data.yaml or another YAML file with "names" and "test";' in str(raised.value)
    assert "ImageSets/Main/test.txt with Annotations/ and JPEGImages/;" in str(raised.value)


def test_an_absent_folder_has_no_splits(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Splits there: none"):
        find_split(tmp_path / "absent", "train")


def test_yields_images_with_clipped_corners(write_coco: WriteCoco) -> None:
    split = write_coco(
        {5: (6, 8), 2: (4, 4)},
        [
            {"image_id": 5, "category_id": 2, "bbox": [-1, 2, 3, 2.5]},
            {"image_id": 2, "category_id": 1, "bbox": [1, 1, 9, 9]},
            {"image_id": 5, "category_id": 1, "bbox": [0.5, 3, 9, 9]},
        ],
    )
    dataset = SplitDataset(split)
    assert dataset.class_names == ("cat", "dog")
    assert len(dataset) == 2
    first, second = dataset
    assert first.targets.boxes.tolist() == [[1, 1, 4, 4]]
    assert first.targets.labels.tolist() == [0]
    assert second.targets.boxes.tolist() == [[0, 2, 2, 4.5], [0.5, 3, 8, 6]]
    assert second.targets.labels.tolist() == [1, 0]
    assert (first.targets.image_id, second.targets.image_id) == (2, 5)
    assert second.targets.size == tuple(second.image.shape[1:]) == (6, 8)
    assert second.file == split.images / "5.png"


def test_drops_crowds_and_boxes_without_area(write_coco: WriteCoco) -> None:
    objects = [
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2], "iscrowd": 1},
        {"image_id": 1, "category_id": 1, "bbox": [1, 1, 0, 2]},
        {"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 0]},
        {"image_id": 1, "category_id": 2, "bbox": [4, 1, 3, 1]},
        {"image_id": 1, "category_id": 2, "bbox": [3, 1, 1, 1]},
    ]
    targets = SplitDataset(write_coco({1: (4, 4)}, objects))[0].targets
    assert targets.boxes.tolist() == [[3, 1, 4, 2]]
    assert targets.labels.tolist() == [1]


def test_images_without_boxes_are_kept(write_coco: WriteCoco) -> None:
    objects = [
        {"image_id": 2, "category_id": 1, "bbox": [0, 0, 2, 2]},
        {"image_id": 3, "category_id": 1, "bbox": [0, 0, 2, 2], "iscrowd": 1},
    ]
    dataset = SplitDataset(write_coco({1: (4, 4), 2: (4, 4), 3: (4, 4)}, objects))
    assert [tuple(sample.targets.boxes.shape) for sample in dataset] == [(0, 4), (1, 4), (0, 4)]


def test_a_file_without_objects_is_a_dataset(write_coco: WriteCoco) -> None:
    assert SplitDataset(write_coco({1: (4, 4)}))[0].targets.labels.tolist() == []
    assert len(SplitDataset(write_coco({}))) == 0


def test_labels_follow_the_detectors_names(write_coco: WriteCoco) -> None:
    objects = [
        {"image_id": 1, "category_id": id, "bbox": [0, 0, side, 1]} for id, side in [(1, 1), (2, 2)]
    ]
    dataset = SplitDataset(write_coco({1: (4, 4)}, objects), class_names=["dog", "cow", "cat"])
    assert dataset[0].targets.labels.tolist() == [2, 0]
    assert dataset.class_names == ("dog", "cow", "cat")


def test_names_the_categories_that_the_detector_lacks(write_coco: WriteCoco) -> None:
    categories = [{"id": id, "name": name} for id, name in enumerate(["cat", "owl", "dog", "bat"])]
    split = write_coco({1: (4, 4)}, categories=categories)
    with pytest.raises(ValueError, match=r"train\.json has .* not know: owl, bat\. It knows dog,"):
        SplitDataset(split, class_names=("dog", "cat"))


def test_samples_are_not_shared(write_coco: WriteCoco) -> None:
    objects = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2]}]
    dataset = SplitDataset(write_coco({1: (4, 4)}, objects))
    dataset[0].targets.boxes.zero_()
    assert dataset[0].targets.boxes.tolist() == [[0, 0, 2, 2]]


def test_an_image_unlike_its_annotations_is_named(write_coco: WriteCoco) -> None:
    split = write_coco({1: (4, 4), 2: (4, 4)})
    (split.images / "1.png").unlink()
    (split.images / "2.png").write_bytes(b"no image")
    dataset = SplitDataset(split)
    with pytest.raises(FileNotFoundError, match=r"images/1\.png"):
        dataset[0]
    with pytest.raises(ValueError, match=r"images/2\.png cannot be read"):
        dataset[1]


def add_noise(sample: Sample) -> Sample:
    return replace(sample, image=torch.rand(3))


def test_randomness_depends_on_seed_epoch_and_index_alone(write_coco: WriteCoco) -> None:
    split = write_coco({1: (4, 4), 2: (4, 4)})
    seen = {}
    for seed in (0, 1):
        for epoch in (0, 1):
            dataset = SplitDataset(split, transform=add_noise, seed=seed)
            dataset.set_epoch(epoch)
            for index in (1, 0):
                torch.rand(index)
                seen[seed, epoch, index] = dataset[index].image
            assert torch.equal(dataset[-1].image, seen[seed, epoch, 1])
    assert len({tuple(image.tolist()) for image in seen.values()}) == len(seen) == 8


def test_a_transform_leaves_the_global_generator_alone(write_coco: WriteCoco) -> None:
    dataset = SplitDataset(write_coco({1: (4, 4)}), transform=add_noise)
    before = torch.get_rng_state()
    dataset[0]
    assert torch.equal(torch.get_rng_state(), before)
