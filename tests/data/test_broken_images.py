from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saccade import Detector
from saccade.data import (
    Split,
    SplitDataset,
    check_images,
    evaluation_transform,
    training_loader,
    without_broken,
)
from saccade.data.headers import check_image, read_size
from saccade.data.images import read_image
from saccade.model import DetectorModel
from saccade.run import train
from saccade.run_config import RunConfig
from saccade.split_evaluation import SplitEvaluation
from saccade.structures import Batch, Targets
from tests.conftest import small_config

WriteCoco = Callable[..., Split]
SIZES = dict.fromkeys(range(6), (8, 8))
# Python 3.12 and later warn when a process with threads, which torch has, forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def truncate(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


def save(file: Path, orientation: int = 1) -> Path:
    """Noise, 32 wide and 16 high as stored."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(file, exif=exif)
    return file


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "mpo"])
def test_the_size_in_the_header_is_that_of_the_image_read(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    file = save(tmp_path / f"a.{suffix}", orientation)
    assert read_size(file) == read_image(file).shape[1:]
    check_image(file, read_size(file))


def test_an_orientation_behind_the_pixels_counts(tmp_path: Path) -> None:
    file = save(tmp_path / "a.png", 6)
    content = file.read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    file.write_bytes(content[:start] + content[end:-12] + content[start:end] + content[-12:])
    assert read_size(file) == read_image(file).shape[1:] == (32, 16)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 0.97])
def test_a_check_without_decoding_sees_what_is_cut_off(
    tmp_path: Path, suffix: str, share: float
) -> None:
    file = save(tmp_path / f"a.{suffix}")
    check_image(file, (16, 32))
    truncate(file, share)
    with pytest.raises(ValueError, match=f"{file} cannot be read as an image"):
        check_image(file, (16, 32))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_what_follows_an_image_does_not_break_it(tmp_path: Path, suffix: str) -> None:
    file = save(tmp_path / f"a.{suffix}")
    file.write_bytes(file.read_bytes() + b"what some camera appended")
    check_image(file, (16, 32))


def test_a_check_sees_another_size_and_floating_point_pixels(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has 32 x 16 pixels, but its annotations say 31 x 16"):
        check_image(save(tmp_path / "a.png"), (16, 31))
    Image.new("F", (4, 2)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif .*floating-point"):
        check_image(tmp_path / "a.tif", (2, 4))
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        check_image(tmp_path / "absent.png", (2, 4))


def test_all_broken_images_are_counted_and_the_first_named(write_coco: WriteCoco) -> None:
    split = write_coco(SIZES)
    check_images(split.images, split.read())
    for number in (1, 2, 3):
        (split.images / f"{number}.png").unlink()
    truncate(split.images / "5.png", 0.5)
    with pytest.raises(
        ValueError, match=r"^4 images are unusable: \S*1\.png does not exist\. \S*2"
    ):
        check_images(split.images, split.read())
    with pytest.raises(ValueError, match=r"And 1 more\. Repair or remove, or pass --on-broken"):
        check_images(split.images, split.read())


def read_ids(dataset: SplitDataset, num_workers: int, skip: int = 0) -> list[list[int]]:
    """Image ids of each batch of the second epoch, resumed after some batches."""
    dataset.set_epoch(1)
    loader = training_loader(dataset, batch_size=2, num_workers=num_workers)
    batches = iter(loader)
    for _ in range(skip):
        next(batches)
    state = loader.state_dict()
    resumed = training_loader(dataset, batch_size=2, num_workers=num_workers)
    if skip:
        resumed.load_state_dict(state)
    read: list[tuple[Batch, list[Targets]]] = list(resumed)
    return [[target.image_id for target in targets] for _, targets in read]


@pytest.mark.filterwarnings("ignore:.*takes its place:UserWarning")
def test_what_replaces_a_broken_image_depends_on_seed_epoch_and_index_alone(
    write_coco: WriteCoco,
) -> None:
    split = write_coco(SIZES)
    whole = SplitDataset(split, transform=evaluation_transform(small_config("detr").input))
    before = read_ids(whole, 0)
    truncate(split.images / "2.png", 0.5)
    (split.images / "4.png").unlink()
    dataset = SplitDataset(split, transform=whole.transform, on_broken_image="skip")
    ids = read_ids(dataset, 0)
    pairs = [
        pair
        for ours, theirs in zip(ids, before, strict=True)
        for pair in zip(ours, theirs, strict=True)
    ]
    assert all(ours == theirs for ours, theirs in pairs if theirs not in (2, 4))
    assert {ours for ours, _ in pairs} == {0, 1, 3, 5}
    assert read_ids(dataset, 1) == ids
    assert read_ids(dataset, 0, skip=1) == ids[1:]
    drawn = set()
    for epoch in range(30):
        dataset.set_epoch(epoch)
        drawn.add(dataset[2].targets.image_id)
    assert drawn == {0, 1, 3, 5}


def test_a_replacement_is_told_and_gets_the_augmentation_of_its_place(
    write_coco: WriteCoco,
) -> None:
    split = write_coco(SIZES)
    truncate(split.images / "2.png", 0.5)
    dataset = SplitDataset(split, on_broken_image="skip")
    with pytest.warns(UserWarning, match=r"2\.png cannot be read .* Another image takes its place"):
        sample = dataset[2]
    assert torch.equal(sample.image, dataset[sample.targets.image_id].image)


def test_a_lost_disk_is_no_matter_of_a_few_images(write_coco: WriteCoco) -> None:
    split = write_coco(SIZES)
    for image in split.images.iterdir():
        image.unlink()
    with pytest.raises(ValueError, match=r"0\.png.* Nor could any of 20 others be read"):
        SplitDataset(split, on_broken_image="skip")[0]


def test_an_evaluation_fails_at_once_or_leaves_broken_images_out(write_coco: WriteCoco) -> None:
    objects = [{"image_id": id, "category_id": 1, "bbox": [0, 0, 4, 4]} for id in range(6)]
    split = write_coco(SIZES, objects)
    content = bytearray((split.images / "2.png").read_bytes())
    # Damage that neither the header nor the end shows.
    content[60:70] = bytes(10)
    (split.images / "2.png").write_bytes(content)
    (split.images / "4.png").unlink()
    config = small_config("detr")
    detector = Detector(config, DetectorModel(config))
    with pytest.raises(ValueError, match=r"1 image is unusable: \S*4\.png does not exist"):
        SplitEvaluation(detector, split.images.parent, "train")
    with pytest.warns(
        UserWarning, match=r"Left out: 2 images are unusable: \S*2\.png .* \S*4\.png"
    ):
        left = without_broken(split.images, split.read())
    assert [image.id for image in left.images] == [0, 1, 3, 5]
    assert [entry.image_id for entry in left.objects] == [0, 1, 3, 5]
    with pytest.warns(UserWarning, match="Left out: 2 images"):
        evaluation = SplitEvaluation(detector, split.images.parent, "train", on_broken_image="skip")
    assert len(evaluation.dataset) == 4


def test_training_refuses_broken_images_before_it_starts(
    write_coco: WriteCoco, tmp_path: Path
) -> None:
    split = write_coco(SIZES)
    truncate(split.images / "3.png", 0.5)
    config = RunConfig(model=small_config("detr"), data=str(split.images.parent))
    with pytest.raises(ValueError, match=r"1 image is unusable: \S*3\.png cannot be read"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_way_with_broken_images_is_refused() -> None:
    with pytest.raises(ValueError, match='on_broken_image is "repair": expected fail, to refuse'):
        RunConfig(model=small_config("detr"), on_broken_image="repair")  # type: ignore[arg-type]
