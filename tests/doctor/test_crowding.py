from dataclasses import replace
from typing import Any

import pytest

from saccade.doctor.crowding import crowding_findings
from saccade.doctor.findings import Severity
from saccade.recipes import for_detector
from saccade.run_config import RunConfig

from .datasets import Box, alarming, annotations, detector, only, tables


def run(preset: str = "deformable-detr-nano", **changes: Any) -> RunConfig:
    return replace(for_detector(detector(preset)), **changes)


def crowd(count: int) -> list[tuple[int, Box]]:
    return [(1, (float(index % 30), float(index // 30), 40.0, 40.0)) for index in range(count)]


def test_a_healthy_dataset_has_nothing_to_say() -> None:
    assert crowding_findings(tables(), run()) == []


def test_more_objects_than_queries_hurt_and_the_remedy_is_enough_for_all_splits() -> None:
    train, val = annotations([crowd(90), crowd(130)]), annotations([crowd(100), crowd(340)])
    found, counted = alarming(crowding_findings(tables(train, val), run()))
    assert found.severity is Severity.HURTS
    assert found.what.startswith(
        "1 of the 2 images of train and 1 of the 2 images of val have more objects than the "
        "detector's 100 queries, up to 340, so that 270 objects (41 %) can never be found"
    )
    assert found.remedy == "train with --model.queries.num-queries 400"
    assert [len(example.boxes) for example in found.examples] == [130, 90, 340, 100]
    assert counted.severity is Severity.LOOK


@pytest.mark.parametrize(("crowded", "severity"), [(1, Severity.LOOK), (12, Severity.HURTS)])
def test_a_few_lost_objects_of_many_are_worth_a_look(crowded: int, severity: Severity) -> None:
    # 10 objects lost on each crowded image, of 10 on each of the others.
    train = annotations([crowd(110)] * crowded + [crowd(10)] * 200)
    found = only(crowding_findings(tables(train), run()))
    assert found.severity is severity
    assert "can never be found" in found.what


@pytest.mark.parametrize(("most", "found"), [(100, 1), (200, 0)])
def test_detections_that_are_not_counted_are_worth_a_look(most: int, found: int) -> None:
    val = annotations([crowd(150)])
    of_val = crowding_findings(tables(val=val), run("deformable-detr-r50", max_detections=most))
    assert len(of_val) == found
    if found:
        assert "33 % of them cannot be counted as found" in of_val[0].what
        assert "--max-detections 200" in of_val[0].remedy


def test_detections_are_counted_for_each_class() -> None:
    both: list[tuple[int, Box]] = [*crowd(80), *((2, box) for _, box in crowd(80))]
    val = annotations([both])
    assert crowding_findings(tables(val=val), run("deformable-detr-r50")) == []


def test_images_with_fewer_tokens_than_proposals_stop_the_run() -> None:
    long = annotations([[(1, (5.0, 5.0, 40.0, 40.0))]], size=(60, 4000))
    found = only(crowding_findings(tables(long), run()))
    assert found.severity is Severity.HURTS
    assert "such as one of 4000 x 60, has fewer tokens (88)" in found.what


def small_when_trained(**augmentation: Any) -> RunConfig:
    usual = run(batch_size=1)
    return replace(usual, augmentation=replace(usual.augmentation, **augmentation))


def test_the_smallest_size_of_training_stops_the_run_too() -> None:
    # 32 x 43 pixels have 4 x 6 + 2 x 3 + 1 x 2 tokens.
    one_of_many = small_when_trained(short_sides=(240, 32))
    found = only(crowding_findings(tables(), one_of_many))
    assert found.severity is Severity.HURTS
    assert found.what.startswith(
        "12 images of train, such as one of 320 x 240, have fewer tokens (32) when training makes "
        "it small than"
    )
    assert len(found.examples) == 4
    padded = replace(one_of_many, batch_size=8)
    assert only(crowding_findings(tables(), padded)).severity is Severity.LOOK


def test_crops_of_training_have_fewer_tokens_than_the_whole_image() -> None:
    # A square of 64 pixels has 64 + 16 + 4 tokens, 64 x 85 has 88 + 24 + 6.
    whole = small_when_trained(short_sides=(64,))
    assert crowding_findings(tables(), whole) == []
    crops = small_when_trained(
        short_sides=(64,), crop=0.5, crop_short_sides=(200,), crop_sides=(150, 180)
    )
    found = only(crowding_findings(tables(), crops))
    assert found.severity is Severity.LOOK
    assert "fewer tokens (84) when training makes it small" in found.what


def test_what_training_makes_small_stays_large_enough_to_evaluate() -> None:
    found = crowding_findings(tables(), small_when_trained(short_sides=(32,)))
    assert [each.what.split(",")[0] for each in found] == ["12 images of train"]


def test_a_detector_without_decoder_finds_as_many_objects_as_it_has_tokens() -> None:
    # 240 x 320 at stride 16: 15 x 20 tokens.
    nano = run("encoder-only-detr-nano")
    assert crowding_findings(tables(annotations([crowd(290)])), nano) == []
    found = only(crowding_findings(tables(annotations([crowd(310)])), nano))
    assert "300 tokens" in found.what
