import pytest

from saccade.presets import preset_config, presets
from saccade.recipes import fast, for_detector, modern, paper, small, with_mixed_queries


@pytest.mark.parametrize("preset", presets())
def test_every_detector_has_both_recipes(preset: str) -> None:
    model = preset_config(preset)
    published, since = for_detector(model, "paper"), for_detector(model)
    assert published.model.denoising.num_queries == 0
    assert not published.model.decoder.look_forward_twice
    assert (published.ema, published.loss.quality) == (0, "none")
    assert since.model.queries == published.model.queries == model.queries


@pytest.mark.parametrize("preset", presets())
def test_the_paper_stays_the_paper_for_weights_of_the_other_recipe(preset: str) -> None:
    model = preset_config(preset)
    assert paper(fast(model).model) == paper(model)


def test_the_paper_is_followed_to_the_number() -> None:
    run = paper(preset_config("deformable-detr-r50"))
    assert (run.epochs, run.batch_size * run.accumulate) == (50, 32)
    optimizer = run.optimizer
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.clip_norm) == (
        2e-4,
        1e-4,
        0.1,
    )
    assert (optimizer.backbone_factor, optimizer.sampling_factor, optimizer.layer_decay) == (
        0.1,
        0.1,
        1,
    )
    assert (run.schedule.kind, run.schedule.drop_at, run.schedule.drop_factor) == ("step", 0.8, 0.1)
    assert (run.loss.class_weight, run.loss.box_weight, run.loss.giou_weight) == (2, 5, 2)
    assert (run.loss.quality, run.ema, run.freeze) == ("none", 0, ())
    assert run.augmentation.short_sides == tuple(range(480, 801, 32))
    assert (run.augmentation.mosaic, run.augmentation.copy_paste, run.augmentation.zoom) == (
        0,
        0,
        0,
    )


def test_detr_is_followed_to_the_number() -> None:
    run = paper(preset_config("detr-r50"))
    assert (run.epochs, run.batch_size * run.accumulate) == (300, 16)
    assert (run.optimizer.learning_rate, run.optimizer.backbone_factor) == (1e-4, 0.1)
    assert (run.optimizer.weight_decay, run.optimizer.clip_norm) == (1e-4, 0.1)
    assert run.epochs * run.schedule.drop_at == pytest.approx(200)
    assert (run.loss.class_weight, run.loss.class_cost, run.loss.no_object_weight) == (1, 1, 0.1)


def test_modern_values_are_those_of_the_documentation() -> None:
    run = fast(preset_config("deformable-detr-r50-two-stage"))
    assert (run.epochs, run.batch_size * run.accumulate, run.ema) == (24, 16, 0.9995)
    assert (run.schedule.kind, run.schedule.flat_until) == ("flat-cosine", 0.6)
    assert run.loss.quality == "matchability"
    assert run.model.denoising.num_queries == 200


def test_fast_adds_only_what_a_detector_can_have() -> None:
    two_stage = fast(preset_config("deformable-detr-r50-two-stage")).model
    assert two_stage.denoising.num_queries
    assert two_stage.decoder.look_forward_twice
    refined = fast(preset_config("deformable-detr-r50-refine")).model
    assert not refined.denoising.num_queries
    assert refined.decoder.look_forward_twice
    assert not fast(preset_config("deformable-detr-r50")).model.decoder.look_forward_twice


def test_families_keep_their_own_recipes() -> None:
    for name in ("detr-r50", "tsp-fcos-r50", "encoder-only-detr-r50"):
        model = preset_config(name)
        assert fast(model) == paper(model)
    nano = preset_config("deformable-detr-nano")
    assert fast(nano) == small(nano)
    assert fast(preset_config("deformable-detr-r50")) == modern(
        preset_config("deformable-detr-r50")
    )


def test_mixed_queries_are_for_detectors_with_proposals() -> None:
    two_stage = preset_config("deformable-detr-r50-two-stage")
    assert two_stage.queries.content == "proposal"
    assert with_mixed_queries(two_stage).queries.content == "learned"
    plain = preset_config("deformable-detr-r50")
    assert with_mixed_queries(plain) == plain
