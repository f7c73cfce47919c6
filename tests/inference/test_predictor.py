from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from saccade import Detector
from saccade.model import DetectorModel
from tests.conftest import small_config


@pytest.fixture
def detector(model: DetectorModel, kind: str) -> Detector:
    return Detector(small_config(kind), model)


@pytest.fixture
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_every_form_of_an_image_gives_the_same(
    detector: Detector, picture: Image.Image, tmp_path: Path
) -> None:
    picture.save(tmp_path / "picture.png")
    array = np.asarray(picture)
    forms = [
        tmp_path / "picture.png",
        str(tmp_path / "picture.png"),
        picture,
        array,
        torch.from_numpy(array.copy()).permute(2, 0, 1),
    ]
    first, *others = detector.predict(forms, threshold=0.0)
    assert len(first) > 0
    for other in others:
        np.testing.assert_array_equal(first.xyxy, other.xyxy)
        np.testing.assert_array_equal(first.confidence, other.confidence)


def test_a_turned_photograph_and_a_16_bit_scan_are_the_same_as_file_and_as_image(
    tmp_path: Path,
) -> None:
    detector = Detector.from_preset("detr-nano", class_names=["cat"])
    values = np.random.default_rng(0).integers(0, 2**16, (40, 60), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "scan.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = Image.fromarray((values // 256).astype(np.uint8)).convert("RGB")
    turned.save(tmp_path / "turned.jpg", exif=exif)
    for file in (tmp_path / "scan.png", tmp_path / "turned.jpg"):
        with Image.open(file) as image:
            by_image = detector.predict(image, threshold=0.0)
        by_file = detector.predict(file, threshold=0.0)
        np.testing.assert_array_equal(by_file.xyxy, by_image.xyxy)


def test_detections_are_sorted_named_and_in_pixels(
    detector: Detector, picture: Image.Image
) -> None:
    found = detector.predict(picture, threshold=0.0, top_k=5)
    assert len(found) == 5
    assert found.confidence is not None
    assert (np.diff(found.confidence) <= 0).all()
    assert set(found.data["class_name"]) <= {"cat", "dog"}
    centres = (found.xyxy[:, :2] + found.xyxy[:, 2:]) / 2
    assert (centres >= 0).all()
    assert (centres <= (90, 60)).all()


def test_the_threshold_is_inclusive_of_all_above_it(
    detector: Detector, picture: Image.Image
) -> None:
    everything = detector.predict(picture, threshold=0.0)
    assert everything.confidence is not None
    middle = float(everything.confidence[len(everything) // 2])
    sure = detector.predict(picture, threshold=middle)
    assert 0 < len(sure) < len(everything)
    assert len(sure) == (everything.confidence >= middle).sum()


def test_saved_and_loaded_predicts_the_same(
    detector: Detector, picture: Image.Image, tmp_path: Path
) -> None:
    detector.save_pretrained(tmp_path / "weights")
    loaded = Detector.from_pretrained(tmp_path / "weights")
    assert loaded.config == detector.config
    before, after = (each.predict(picture, threshold=0.0) for each in (detector, loaded))
    np.testing.assert_array_equal(before.xyxy, after.xyxy)
    np.testing.assert_array_equal(before.confidence, after.confidence)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            np.zeros((4, 4, 3), np.float32),
            r"float32 of shape \[4, 4, 3\]: expected a uint8 RGB \[H",
        ),
        (
            torch.zeros(4, 4, 3, dtype=torch.uint8),
            r"shape \[4, 4, 3\]: expected a uint8 RGB \[3, H",
        ),
        (np.zeros((4, 4), np.uint8), r"shape \[4, 4\]: expected a uint8 RGB"),
    ],
)
def test_an_image_of_the_wrong_form_is_refused(image: object, message: str) -> None:
    detector = Detector.from_preset("detr-nano", class_names=["cat"])
    with pytest.raises(ValueError, match=message):
        detector.predict(image)


def test_a_threshold_in_percent_is_refused(picture: Image.Image) -> None:
    detector = Detector.from_preset("detr-nano", class_names=["cat"])
    with pytest.raises(ValueError, match=r"threshold is 30: expected a score between 0 and 1"):
        detector.predict(picture, threshold=30)


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r'no preset "detr-r51": expected one of .*detr-r50'):
        Detector.from_preset("detr-r51")


def test_class_names_are_not_taken_apart_into_letters() -> None:
    with pytest.raises(ValueError, match=r"the string 'cat': expected a sequence .* \['cat'\]"):
        Detector.from_preset("detr-nano", class_names="cat")
