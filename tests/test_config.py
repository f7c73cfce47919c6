from dataclasses import replace

import pytest

from saccade.config import DenoisingConfig, DetectorConfig, InputConfig, as_class_names
from saccade.config_parts import (
    BackboneConfig,
    DecoderConfig,
    EncoderConfig,
    NeckConfig,
    QueryConfig,
    SelectionConfig,
)
from saccade.presets import preset_config, presets
from saccade.recipe_config import AugmentationConfig, LossConfig, OptimizerConfig, ScheduleConfig
from saccade.recipes import for_detector
from saccade.run_config import LaunchConfig, RunConfig

NAN, INFINITY = float("nan"), float("inf")
COUNTS = [
    (EncoderConfig, "encoder", ("num_layers", "num_heads", "num_points", "ffn_width")),
    (DecoderConfig, "decoder", ("num_heads", "num_points", "ffn_width")),
    (NeckConfig, "neck", ("width", "num_rounds")),
    (SelectionConfig, "selection", ("num_tokens", "num_convolutions", "region_size")),
    (QueryConfig, "queries", ("num_queries",)),
    (InputConfig, "input", ("short_side", "max_side")),
    (AugmentationConfig, "augmentation", ("max_side",)),
    (LaunchConfig, "launch", ("devices", "num_nodes")),
]
COUNTS_OR_NONE = [
    (NeckConfig, "neck", ("num_extra_levels",)),
    (EncoderConfig, "encoder", ("map_rank",)),
    (DecoderConfig, "decoder", ("num_layers",)),
    (BackboneConfig, "backbone", ("num_frozen_stages",)),
    (DenoisingConfig, "denoising", ("num_queries",)),
]
FRACTIONS = [
    (EncoderConfig, "encoder", ("dropout",)),
    (DecoderConfig, "decoder", ("dropout",)),
    (DenoisingConfig, "denoising", ("label_noise",)),
    (AugmentationConfig, "augmentation", ("horizontal_flip", "vertical_flip", "crop")),
    (AugmentationConfig, "augmentation", ("brightness",)),
    (LossConfig, "loss", ("focal_alpha",)),
]
AMOUNTS = [
    (DenoisingConfig, "denoising", ("box_noise",)),
    (AugmentationConfig, "augmentation", ("zoom",)),
    (LossConfig, "loss", ("class_weight", "box_weight", "giou_weight", "no_object_weight")),
    (LossConfig, "loss", ("class_cost", "box_cost", "giou_cost", "focal_gamma")),
    (LossConfig, "loss", ("proposal_weight",)),
    (OptimizerConfig, "optimizer", ("learning_rate", "backbone_factor", "sampling_factor")),
    (OptimizerConfig, "optimizer", ("weight_decay", "clip_norm")),
    (ScheduleConfig, "schedule", ("drop_factor", "final_factor")),
]


def _each(table):
    return [(kind, owner, name) for kind, owner, names in table for name in names]


def _sparse(**values) -> DetectorConfig:
    return replace(preset_config("tsp-rcnn-r50"), **values)


def _run(**values) -> RunConfig:
    return RunConfig(model=DetectorConfig(class_names=("cat",)), **values)


@pytest.mark.parametrize("preset", presets())
def test_presets_and_their_recipes_pass(preset):
    assert for_detector(preset_config(preset)).model.num_classes == 91


@pytest.mark.parametrize("value", [0, -1, 1.5, None, "8", True])
@pytest.mark.parametrize(("kind", "owner", "name"), _each(COUNTS))
def test_counts(kind, owner, name, value):
    message = (
        rf"^{owner}\.{name} is {value!r}: expected more than zero, a whole number such as \d+,"
    )
    with pytest.raises(ValueError, match=message):
        kind(**{name: value})


@pytest.mark.parametrize(("kind", "owner", "name"), _each(COUNTS_OR_NONE))
def test_counts_that_may_be_zero(kind, owner, name):
    assert getattr(kind(**{name: 0}), name) == 0
    with pytest.raises(
        ValueError, match=rf"^{owner}\.{name} is -1: expected zero or more, a whole"
    ):
        kind(**{name: -1})


@pytest.mark.parametrize("value", [-0.1, 1.1, NAN, None])
@pytest.mark.parametrize(("kind", "owner", "name"), _each(FRACTIONS))
def test_fractions(kind, owner, name, value):
    with pytest.raises(ValueError, match=rf"^{owner}\.{name} is {value!r}: expected 0 to 1, such"):
        kind(**{name: value})


@pytest.mark.parametrize("value", [-0.1, INFINITY, NAN, "1e-4"])
@pytest.mark.parametrize(("kind", "owner", "name"), _each(AMOUNTS))
def test_amounts(kind, owner, name, value):
    assert getattr(kind(**{name: 0}), name) == 0
    message = rf"^{owner}\.{name} is {value!r}: expected a finite number of at least 0, such as"
    with pytest.raises(ValueError, match=message):
        kind(**{name: value})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: InputConfig(std=(1.0, 0.0, 1.0)), r"^input\.std is .*: expected a number above 0"),
        (lambda: InputConfig(std=(1.0, NAN, 1.0)), r"^input\.std is .*: expected a number above 0"),
        (lambda: InputConfig(mean=(0.5, 0.5)), r"^input\.mean is .*: expected a finite number for"),
        (lambda: InputConfig(mean=(NAN, 0.0, 0.0)), r"^input\.mean is \(nan, .*: expected a finit"),
        (lambda: AugmentationConfig(short_sides=()), r"^augmentation\.short_sides is \(\): expect"),
        (lambda: AugmentationConfig(short_sides=(0,)), r"^augmentation\.short_sides is \(0,\): ex"),
        (lambda: AugmentationConfig(crop_short_sides=()), r"^augmentation\.crop_short_sides is"),
        (lambda: AugmentationConfig(crop_sides=(600, 384)), r"crop_sides is .*: expected the leas"),
        (lambda: AugmentationConfig(crop_sides=(0, 384)), r"crop_sides is .*: expected the least"),
        (
            lambda: NeckConfig(width=33, norm="none"),
            r"^neck\.width is 33: expected a multiple of 4,",
        ),
        (lambda: BackboneConfig(levels=(0, 1)), r"^backbone\.levels is \(0, 1\): expected stages"),
        (lambda: ScheduleConfig(warmup=NAN), r"^schedule\.warmup is nan: expected a fraction"),
        (lambda: ScheduleConfig(drop_at=NAN), r"^schedule\.drop_at is nan: expected a fraction"),
    ],
)
def test_several_numbers_together(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: BackboneConfig(name="small-resnet", num_frozen_stages=0, dilated=True),
            r'^backbone\.dilated is true, but backbone\.name is "small-resnet".*: unset backbone\.',
        ),
        (
            lambda: BackboneConfig(name="small-resnet"),
            r"^backbone\.num_frozen_stages is 2, but .*small-resnet.*: set num_frozen_stages to 0",
        ),
        (
            lambda: BackboneConfig(levels=(3, 4), dilated=True),
            r"^backbone\.dilated is true, but the last of backbone\.levels is 4: expected 5",
        ),
        (
            lambda: QueryConfig(source="two-stage", content="zeros"),
            r'^queries\.content is "zeros" but queries\.source is "two-stage".*: set queries\.cont',
        ),
    ],
)
def test_fields_that_nothing_would_read_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cat", r"^class_names is the string 'cat': expected a sequence .* write \['cat'\]"),
        ((), r"^class_names is empty: expected at least one class"),
        (("cat", " "), r"^class_names\[1\] is ' ': expected a name"),
        (("cat", 3), r"^class_names\[1\] is 3: expected a name"),
        (("cat", "dog", "cat"), r'^class_names\[2\] is "cat" again: expected every name once'),
    ],
)
def test_class_names(names, message):
    with pytest.raises(ValueError, match=message):
        DetectorConfig(class_names=names)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: BackboneConfig(deformable_levels=(3, 6)),
            r"^backbone\.deformable_levels is \(3, 6\): expected stages among 2 3 4 5",
        ),
        (
            lambda: EncoderConfig(terms=("query-key", "value")),
            r"^encoder\.terms is .*: expected some of query-key query-position key position",
        ),
        (lambda: EncoderConfig(terms=()), r"^encoder\.terms is \(\): expected some of query-key"),
        (
            lambda: EncoderConfig(map_size=(42, 0)),
            r"^encoder\.map_size is \(42, 0\): expected a height and a width in tokens",
        ),
        (
            lambda: DetectorConfig(
                class_names=("cat",), encoder=EncoderConfig(attention="four-term")
            ),
            r'^encoder\.attention is "four-term", which attends within one level, but there are 4',
        ),
        (
            lambda: DetectorConfig(class_names=("cat",), queries=QueryConfig(source="tokens")),
            r'^queries\.source is "tokens" and decoder\.num_layers is 6: expected no layers',
        ),
        (
            lambda: SelectionConfig(keep=(0.9, 0.7)),
            r"^selection\.keep is \(0\.9, 0\.7\): expected the least and the largest share",
        ),
        (lambda: SelectionConfig(keep=(0.0, 0.7)), r"^selection\.keep is \(0\.0, 0\.7\): expected"),
        (lambda: SelectionConfig(keep=(NAN, 1.0)), r"^selection\.keep is \(nan, 1\.0\): expected"),
        (
            lambda: DetectorConfig(class_names=("cat",), selection=SelectionConfig(kind="fcos")),
            r'^selection\.kind is "fcos", but queries\.source is "learned": the selected tokens',
        ),
        (
            lambda: _sparse(encoder=EncoderConfig()),
            r'^selection\.kind is "rcnn", but encoder\.attention is "deformable", which needs',
        ),
        (
            lambda: _sparse(
                backbone=BackboneConfig(levels=(5,)), neck=NeckConfig(num_extra_levels=0)
            ),
            r"but backbone\.levels is \(5,\) with 0 extra ones: expected several levels, each of",
        ),
        (
            lambda: _sparse(backbone=BackboneConfig(levels=(2, 3, 5))),
            r"but backbone\.levels is \(2, 3, 5\) with 2 extra ones: expected several levels",
        ),
        (
            lambda: _sparse(backbone=BackboneConfig(dilated=True)),
            r"with 2 extra ones, the last dilated: expected several levels, each of twice the",
        ),
        (
            lambda: _sparse(neck=NeckConfig(width=48, norm="none")),
            r'^selection\.kind is "rcnn", but neck\.width is 48: expected a multiple of 32, the',
        ),
    ],
)
def test_members_of_the_family_that_do_not_fit(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_class_names_become_a_tuple():
    assert as_class_names(["cat", "dog"]) == ("cat", "dog")


@pytest.mark.parametrize("name", ["epochs", "batch_size", "accumulate", "num_evaluations"])
def test_counts_of_a_run(name):
    with pytest.raises(ValueError, match=rf"^{name} is 0: expected more than zero, a whole"):
        _run(**{name: 0})


@pytest.mark.parametrize("minutes", [0.0, -1.0, NAN, INFINITY])
def test_minutes(minutes):
    with pytest.raises(ValueError, match=rf"^minutes is {minutes}: expected more than zero; leave"):
        _run(minutes=minutes)


def test_a_run_without_workers_or_weights():
    run = _run(num_workers=0)
    assert (run.num_workers, run.weights, run.accumulate) == (0, None, 1)
    with pytest.raises(ValueError, match=r"^num_workers is -1: expected zero or more, a whole nu"):
        replace(run, num_workers=-1)
