import pytest

from saccade.doctor.crowding import crowding_findings
from saccade.doctor.findings import Severity

from .datasets import Box, alarming, annotations, detector, only, tables


def crowd(count: int) -> list[tuple[int, Box]]:
    return [(1, (float(index % 30), float(index // 30), 40.0, 40.0)) for index in range(count)]


def test_a_healthy_dataset_has_nothing_to_say() -> None:
    assert crowding_findings(tables(), detector()) == []


def test_more_objects_than_queries_hurt_and_the_remedy_is_enough_for_all_splits() -> None:
    train, val = annotations([crowd(90), crowd(130)]), annotations([crowd(100), crowd(340)])
    found, counted = alarming(crowding_findings(tables(train, val), detector()))
    assert found.severity is Severity.HURTS
    assert found.what.startswith(
        "1 of the 2 images of train and 1 of the 2 images of val have more objects than the "
        "detector's 100 queries, up to 340, so that 270 objects (41 %) can never be found"
    )
    assert found.remedy == "train with --model.queries.num-queries 400"
    assert [len(example.boxes) for example in found.examples] == [130, 90, 340, 100]
    assert counted.severity is Severity.LOOK


@pytest.mark.parametrize(("most", "found"), [(100, 1), (200, 0)])
def test_detections_that_are_not_counted_are_worth_a_look(most: int, found: int) -> None:
    val = annotations([crowd(150)])
    of_val = crowding_findings(tables(val=val), detector("deformable-detr-r50"), most)
    assert len(of_val) == found
    if found:
        assert "33 % of them cannot be counted as found" in of_val[0].what
        assert "--max-detections 200" in of_val[0].remedy


def test_detections_are_counted_for_each_class() -> None:
    both: list[tuple[int, Box]] = [*crowd(80), *((2, box) for _, box in crowd(80))]
    val = annotations([both])
    assert crowding_findings(tables(val=val), detector("deformable-detr-r50")) == []


def test_images_with_fewer_tokens_than_proposals_stop_the_run() -> None:
    long = annotations([[(1, (5.0, 5.0, 40.0, 40.0))]], size=(60, 4000))
    found = only(crowding_findings(tables(long), detector()))
    assert found.severity is Severity.HURTS
    assert "such as one of 4000 x 60, has fewer tokens (88)" in found.what


def test_a_detector_without_decoder_finds_as_many_objects_as_it_has_tokens() -> None:
    # 240 x 320 at stride 16: 15 x 20 tokens.
    nano = detector("encoder-only-detr-nano")
    assert crowding_findings(tables(annotations([crowd(290)])), nano) == []
    found = only(crowding_findings(tables(annotations([crowd(310)])), nano))
    assert "300 tokens" in found.what
