from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from saccade.data import SplitDataset, find_split
from saccade.data.annotations import read_annotations
from saccade.data.shapes import (
    LARGEST_OVERLAP,
    SHAPES,
    _overlap,
    _place,
    draw_shapes,
    holds_shapes,
    write_shapes,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, num_train=6, num_val=3, side=64, seed=1)
    return folder


@pytest.mark.parametrize(("split", "count"), [("train", 6), ("val", 3)])
def test_the_folder_is_a_dataset(folder: Path, split: str, count: int) -> None:
    dataset = SplitDataset(find_split(folder, split))
    assert len(dataset) == count
    assert dataset.class_names == SHAPES
    for index in range(count):
        sample = dataset.read(index)
        assert sample.image.shape == (3, 64, 64)
        boxes = sample.targets.boxes
        assert len(boxes) > 0
        assert (boxes >= 0).all()
        assert (boxes <= 64).all()


def test_no_image_of_val_is_one_of_train(folder: Path) -> None:
    images = [file.read_bytes() for file in (folder / "images").iterdir()]
    assert len(set(images)) == len(images) == 9


def test_a_seed_gives_the_same_images_again_and_another_gives_others() -> None:
    first, again, other = (draw_shapes(48, 4, [seed, 0, 1]) for seed in (5, 5, 6))
    assert first[0].tobytes() == again[0].tobytes()
    assert first[1] == again[1]
    assert first[0].tobytes() != other[0].tobytes()


@pytest.mark.parametrize("kind", range(len(SHAPES)))
def test_a_box_ends_where_its_shape_ends(kind: int) -> None:
    random = np.random.default_rng(kind)
    for _ in range(5):
        found = _place(kind, 96, [], random)
        assert found is not None
        (x, y, width, height), mask = found
        rows, columns = np.nonzero(mask > 0.02)
        # A corner may be too sharp to cover enough of the pixel it lies in.
        ends = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.allclose(ends, (x, y, x + width, y + height), atol=1.6)


def test_shapes_are_small_and_large_and_hide_little_of_each_other() -> None:
    images = [draw_shapes(128, 8, [0, number])[1] for number in range(30)]
    sides = [max(box[2:]) for placed in images for _, box, _ in placed]
    assert min(sides) < 12
    assert max(sides) > 50
    for placed in images:
        boxes = [box for _, box, _ in placed]
        pairs = combinations(boxes, 2)
        assert all(_overlap(first, second) <= LARGEST_OVERLAP for first, second in pairs)


def test_areas_are_those_of_the_shapes_and_not_of_their_boxes(folder: Path) -> None:
    for entry in read_annotations(folder / "annotations" / "train.json").objects:
        assert 0.2 < entry.area / (entry.box[2] * entry.box[3]) < 1.05


def test_what_a_folder_holds_is_not_overwritten(folder: Path) -> None:
    with pytest.raises(ValueError, match="holds a dataset already: name another folder"):
        write_shapes(folder)


def test_a_folder_whose_writing_was_cut_off_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_text

    def kill(file: Path, text: str, encoding: str) -> None:
        if file.name == "val.json":
            raise KeyboardInterrupt
        write(file, text, encoding)

    with monkeypatch.context() as context:
        context.setattr(Path, "write_text", kill)
        with pytest.raises(KeyboardInterrupt):
            write_shapes(tmp_path, num_train=1, num_val=1, side=32)
    assert not holds_shapes(tmp_path)
    assert not (tmp_path / "annotations").exists()
    write_shapes(tmp_path, num_train=1, num_val=1, side=32)
    assert holds_shapes(tmp_path)
    assert {each.name for each in tmp_path.iterdir()} == {"annotations", "images"}


def test_a_folder_with_one_split_alone_is_not_complete_and_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.json").write_text("{}")
    assert not holds_shapes(tmp_path)
    with pytest.raises(ValueError, match="holds a dataset already"):
        write_shapes(tmp_path)


def test_numbers_that_make_no_dataset_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="side is 8: expected at least 32"):
        write_shapes(tmp_path / "new", side=8)
    assert not (tmp_path / "new").exists()
