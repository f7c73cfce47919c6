"""What the studies compare."""

from dataclasses import replace
from operator import attrgetter
from typing import get_args, get_type_hints

import pytest

from saccade.analysis.study import STUDIES, Row, Size
from saccade.analysis.study.arguments import StudyArguments
from saccade.analysis.study.detectors import deformable, resized
from saccade.analysis.study.rows import SIZES
from saccade.presets import PRESETS, preset_config

CASES = [
    pytest.param(row, size, id=f"{study.name}-{row.key}-{size}")
    for study in STUDIES.values()
    for size in SIZES
    for row in study.pick(size)
]


def test_every_study_can_be_asked_for_by_name() -> None:
    assert set(get_args(get_type_hints(StudyArguments)["name"])) == set(STUDIES)
    assert all(study.name == name for name, study in STUDIES.items())


@pytest.mark.parametrize(("row", "size"), CASES)
def test_every_row_is_a_detector_without_denoising(row: Row, size: Size) -> None:
    assert row.build(size).denoising.num_queries == 0


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize(
    "part",
    ["neck.width", "encoder.num_layers", "decoder.num_layers", "queries.num_queries", "input"],
)
def test_small_rows_differ_in_the_step_alone(name: str, part: str) -> None:
    """Without a decoder there are neither its layers nor queries; TSP is a design of its own."""
    configs = [row.build("nano") for row in STUDIES[name].pick("nano") if "tsp" not in row.key]
    if part.startswith(("decoder", "queries")):
        configs = [config for config in configs if config.decoder.num_layers]
    assert len({attrgetter(part)(config) for config in configs}) == 1


@pytest.mark.parametrize(
    ("study", "row", "preset"),
    [
        ("convergence", "detr", "detr-r50"),
        ("convergence", "detr-dc5", "detr-r50-dc5"),
        ("convergence", "detr-dc5-plus", "detr-r50-dc5-plus"),
        ("convergence", "deformable", "deformable-detr-r50"),
        ("convergence", "deformable-refine", "deformable-detr-r50-refine"),
        ("convergence", "deformable-two-stage", "deformable-detr-r50-two-stage"),
        ("ablation", "across-scales", "deformable-detr-r50"),
        ("ablation", "fpn", "deformable-detr-r50-fpn"),
        ("ablation", "bifpn", "deformable-detr-r50-bifpn"),
        ("backbones", "resnet101", "deformable-detr-r101-two-stage"),
        ("backbones", "resnext101_64x4d", "deformable-detr-x101-two-stage"),
        ("attention", "deformable", "deformable-detr-r50-single-scale"),
        ("decoder", "tsp-rcnn", "tsp-rcnn-r50"),
    ],
)
def test_large_rows_are_the_published_detectors(study: str, row: str, preset: str) -> None:
    (found,) = STUDIES[study].pick("r50", [row])
    # What the encoder's attention does not use follows from the size of the images.
    plain = preset_config(preset)
    encoder = replace(found.build("r50").encoder, map_size=plain.encoder.map_size)
    assert replace(found.build("r50"), encoder=encoder) == plain


def test_steps_lead_from_one_row_to_the_next() -> None:
    rows = {row.key: row.build("nano") for row in STUDIES["convergence"].rows}
    plain, refined = rows["deformable"], rows["deformable-refine"]
    assert replace(plain, decoder=replace(plain.decoder, refined=True)) == refined
    two_stage = rows["deformable-two-stage"]
    assert replace(two_stage, queries=refined.queries) == refined
    assert two_stage.queries.source == "two-stage"
    assert replace(rows["detr-dc5"], classification="sigmoid") == rows["detr-dc5-plus"]
    assert rows["detr-dc5"] == PRESETS["detr-nano"]()
    assert (rows["detr"].backbone.levels, rows["detr-dc5"].backbone.levels) == ((5,), (4,))
    assert [row.times for row in STUDIES["convergence"].rows] == [10, 10, 1, 1, 1, 1, 1]


def test_the_ablation_takes_points_and_scales_away() -> None:
    rows = {row.key: row.build("nano") for row in STUDIES["ablation"].rows}
    assert rows["one-scale-k1"].num_levels == 1
    assert rows["one-scale-k1"].encoder.num_points == 1
    assert rows["one-scale-k1"].decoder.num_points == 1
    assert rows["scales-k1"].num_levels == rows["across-scales"].num_levels == 3
    assert not rows["scales-k4"].encoder.across_levels
    assert rows["across-scales"] == deformable("nano")


def test_published_figures_are_complete_or_ap_alone() -> None:
    published = [row.published for study in STUDIES.values() for row in study.rows if row.published]
    assert len(published) > 15
    assert all(len(each.numbers) in (1, 6) and "," in each.source for each in published)
    assert all(
        ap < ap50 and ap75 < ap50
        for each in published
        if len(each.numbers) == 6
        for ap, ap50, ap75 in [each.numbers[:3]]
    )


def test_published_figures_are_those_of_table_1() -> None:
    published = {row.key: row.published for row in STUDIES["convergence"].rows}
    found = {key: (each.epochs, *each.numbers) for key, each in published.items() if each}
    assert found == {
        "detr": (500, 42.0, 62.4, 44.2, 20.5, 45.8, 61.1),
        "detr-dc5": (500, 43.3, 63.1, 45.9, 22.5, 47.3, 61.1),
        "detr-dc5-short": (50, 35.3, 55.7, 36.8, 15.2, 37.5, 53.6),
        "detr-dc5-plus": (50, 36.2, 57.0, 37.4, 16.3, 39.2, 53.9),
        "deformable": (50, 43.8, 62.6, 47.7, 26.4, 47.1, 58.0),
        "deformable-refine": (50, 45.4, 64.7, 49.0, 26.8, 48.3, 61.7),
        "deformable-two-stage": (50, 46.2, 65.2, 50.0, 28.8, 49.2, 61.7),
    }


def test_images_of_another_size_need_another_map() -> None:
    (row,) = STUDIES["attention"].pick("nano", ["synthesizer-dense"])
    config = resized(row.build("nano"), 96)
    assert (config.input.short_side, config.input.max_side) == (96, 160)
    assert config.encoder.map_size == (10, 10)


def test_a_row_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(
        ValueError, match=r'"decoder" has no row "tsp" at the size nano: .*tsp-fcos'
    ):
        STUDIES["decoder"].pick("nano", ["tsp"])
