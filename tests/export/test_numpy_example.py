import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.optimize import linear_sum_assignment

from saccade import Detector
from saccade.export.files import Order, write_file
from saccade.export.program import Sizes
from tests.export.small import small_detector

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_numpy.py"
# Sizes that are enlarged to the short side, and to the long one.
CASES = [pytest.param("learned", (80, 60), marks=pytest.mark.slow), ("detr", (50, 150))]


@pytest.mark.parametrize(("kind", "size"), CASES)
def test_it_finds_what_the_detector_finds(kind: str, size: tuple[int, int], tmp_path: Path) -> None:
    detector = small_detector(kind)
    picture = smooth_picture(size)
    threshold = middling_score(detector, picture)
    order = Order("onnx", Sizes(), threshold=threshold)
    file, _ = write_file(order, detector.config, detector.model, tmp_path)
    picture.save(tmp_path / "picture.png")
    done = subprocess.run(
        [sys.executable, EXAMPLE, file, tmp_path / "picture.png"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    expected = detector.predict(picture, threshold=threshold)
    assert expected.confidence is not None
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(lines) == len(expected) > 0
    found = np.array(
        [[detector.config.class_names.index(line[0]), *map(float, line[1:])] for line in lines]
    )
    wanted = np.column_stack([expected.class_id, expected.confidence, expected.xyxy])
    # Those that score alike may come in another order.
    rows, columns = linear_sum_assignment(np.abs(found[:, None] - wanted).sum(-1))
    difference = np.abs(found[rows] - wanted[columns])
    assert difference[:, 0].max() == 0
    assert difference[:, 1].max() < 1e-3
    assert difference[:, 2:].max() < 1


def smooth_picture(size: tuple[int, int]) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise).filter(ImageFilter.GaussianBlur(4))


def middling_score(detector: Detector, picture: Image.Image) -> float:
    """In the widest gap between scores, so that no rounding decides what is found."""
    scores = np.sort(detector.predict(picture, threshold=0).confidence)
    widest = np.diff(scores).argmax()
    return float(scores[widest : widest + 2].mean())
