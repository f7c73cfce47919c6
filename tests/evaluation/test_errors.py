import numpy as np
import pytest

from saccade.evaluation.calibration import calibration
from saccade.evaluation.confusion import confused_pairs, confusion
from saccade.evaluation.errors import KINDS, decompose, gains, image_weights
from saccade.evaluation.matched import NONE, Detected, Matched, Objects, match

CAT, DOG = 0, 1


def box(x: float, width: float = 10.0) -> list[float]:
    return [x, 0.0, x + width, 10.0]


def matching(
    found: list[tuple[int, float, list[float]]],
    marked: list[tuple[int, list[float]]],
    crowd: list[float] | None = None,
) -> Matched:
    """In image 5: detections (category, score, corners) and objects (category, corners)."""
    corners = [each[1] for each in marked] + ([] if crowd is None else [crowd])
    categories = [each[0] for each in marked] + ([] if crowd is None else [CAT])
    return match(
        Detected(
            np.full(len(found), 5),
            np.array([each[0] for each in found], np.int64),
            np.array([each[2] for each in found], np.float64).reshape(-1, 4),
            np.array([each[1] for each in found], np.float64),
        ),
        Objects(
            np.full(len(corners), 5),
            np.array(categories, np.int64),
            np.array(corners, np.float64).reshape(-1, 4),
            np.arange(len(corners)) >= len(marked),
        ),
    )


@pytest.fixture
def one_of_each() -> Matched:
    """Five objects, and below the surest detection one error of each kind."""
    found = [
        (CAT, 0.9, box(0)),  # right
        (CAT, 0.8, box(1)),  # duplicate
        (DOG, 0.7, box(100)),  # a cat in truth
        (CAT, 0.6, box(206)),  # IoU 4 / 16
        (DOG, 0.5, box(307)),  # a cat in truth, IoU 3 / 17
        (CAT, 0.4, box(600)),  # nothing there
        (CAT, 0.3, box(702)),  # in the crowd
    ]
    marked = [(CAT, box(x)) for x in (0, 100, 200, 300)] + [(DOG, box(400))]
    return matching(found, marked, crowd=box(700, 50))


def test_every_error_has_its_kind(one_of_each: Matched) -> None:
    errors = decompose(one_of_each)
    names = list(KINDS)
    kinds = [None if kind == NONE else names[kind] for kind in errors.kinds]
    expected = [None, "duplicate", "classification", "localisation", "both", "background", None]
    assert kinds == expected
    assert errors.meant.tolist() == [NONE, NONE, 1, 2, NONE, NONE, NONE]
    # The object of the error of both kinds, and the dog.
    assert errors.missed.tolist() == [False, False, False, True, True, False]
    assert errors.counts == dict.fromkeys(KINDS, 1) | {"missed": 2}


def test_an_image_without_objects_has_only_background() -> None:
    errors = decompose(matching([(CAT, 0.5, box(0)), (DOG, 0.4, box(0))], []))
    assert errors.counts == dict.fromkeys(KINDS, 0) | {"background": 2}
    assert set(gains(errors, 2).values()) == {0}


def ap(precisions: list[float], num_objects: int) -> float:
    """COCO's, of precision at one recall step after the other."""
    recalls = np.arange(1, len(precisions) + 1) / num_objects
    steps = np.searchsorted(recalls, np.linspace(0, 1, 101))
    return float(np.append(precisions, 0)[np.minimum(steps, len(precisions))].mean())


def test_what_each_kind_would_give_back(one_of_each: Matched) -> None:
    # Cats: right, duplicate, localisation, background, of 4 objects; dogs: two wrong, of 1.
    before = ap([1], 4) / 2
    expected = {
        "classification": (ap([1, 2 / 3], 4)) / 2,
        "localisation": (ap([1, 2 / 3], 4)) / 2,
        "both": before,
        "duplicate": before,
        "background": before,
        # One cat and the only dog need not be found: dogs have only wrong detections left.
        "missed": ap([1], 3) / 2,
    }
    gained = gains(decompose(one_of_each), 2)
    assert gained == pytest.approx({name: after - before for name, after in expected.items()})
    assert gained["missed"] > 0


def test_removing_duplicates_and_background_raises_the_precision_after_them() -> None:
    found = [(CAT, 0.9, box(0)), (CAT, 0.8, box(1)), (CAT, 0.7, box(300)), (CAT, 0.6, box(100))]
    gained = gains(decompose(matching(found, [(CAT, box(0)), (CAT, box(100))])), 1)
    assert gained["duplicate"] == pytest.approx(ap([1, 2 / 3], 2) - ap([1, 1 / 2], 2))
    assert gained["background"] == pytest.approx(gained["duplicate"])


def test_of_two_poor_boxes_only_the_surest_is_corrected() -> None:
    found = [(CAT, 0.9, box(6)), (CAT, 0.8, box(5)), (CAT, 0.7, box(105)), (CAT, 0.6, box(100))]
    errors = decompose(matching(found, [(CAT, box(0)), (CAT, box(100))]))
    assert errors.counts["localisation"] == 3
    # The third means an object that is found: it is removed.
    assert gains(errors, 1)["localisation"] == pytest.approx(1 - ap([1 / 4], 2))


def test_a_class_without_objects_costs_nothing() -> None:
    errors = decompose(matching([(CAT, 0.9, box(0)), (DOG, 0.8, box(300))], [(CAT, box(0))]))
    assert set(gains(errors, 2).values()) == {0}


def test_an_image_weighs_what_is_missed_and_what_is_wrong(one_of_each: Matched) -> None:
    weights = image_weights(decompose(one_of_each))
    assert weights == {5: pytest.approx(4 + 0.8 + 0.7 + 0.6 + 0.5 + 0.4)}
    assert image_weights(decompose(one_of_each.above(0.65))) == {5: pytest.approx(4 + 0.8 + 0.7)}


def test_confusion_counts_every_object_and_every_detection_once(one_of_each: Matched) -> None:
    counts = confusion(one_of_each, 2)
    # Rows are cats, dogs and nothing; the crowd and what lies in it are left out.
    assert counts.tolist() == [[1, 1, 2], [0, 0, 1], [3, 1, 0]]
    assert confused_pairs(counts) == [(CAT, DOG, 1)]
    assert confusion(one_of_each.above(0.75), 2).tolist() == [[1, 0, 3], [0, 0, 1], [1, 0, 0]]


def test_confusion_pairs_the_highest_iou_first() -> None:
    found = [(DOG, 0.9, box(2)), (DOG, 0.8, box(0))]
    assert confusion(matching(found, [(CAT, box(0))]), 2).tolist() == [
        [0, 1, 0],
        [0, 0, 0],
        [0, 1, 0],
    ]
    assert confusion(matching([], []), 1).tolist() == [[0, 0], [0, 0]]


def test_calibration_compares_scores_with_the_share_of_right_ones() -> None:
    found = [(CAT, 1.0, box(0)), (CAT, 0.9, box(100)), (CAT, 0.8, box(500)), (CAT, 0.1, box(600))]
    result = calibration(
        matching([*found, (CAT, 0.3, box(702))], [(CAT, box(0)), (CAT, box(100))], box(700, 50)), 5
    )
    assert result.edges.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert result.counts.tolist() == [1, 0, 0, 0, 3]
    assert result.scores[[0, 4]] == pytest.approx([0.1, 0.9])
    assert result.right[[0, 4]] == pytest.approx([0, 2 / 3])
    assert np.isnan(result.right[1:4]).all()
    assert result.error == pytest.approx((0.1 + 3 * (0.9 - 2 / 3)) / 4)


def test_calibration_needs_probabilities_and_something_to_judge() -> None:
    with pytest.raises(ValueError, match=r"scores lie between 0.5 and 3: expected probabilities"):
        calibration(matching([(CAT, 3.0, box(0)), (CAT, 0.5, box(0))], []))
    assert np.isnan(calibration(matching([], [])).error)
