import pytest

from saccade.doctor.findings import Severity
from saccade.doctor.size_checks import size_findings

from .datasets import Box, alarming, annotations, nano, only, tables


def squares(side: float, count: int = 20) -> list[tuple[int, Box]]:
    return [(1, (float(10 * index), 20.0, side, side)) for index in range(count)]


def test_a_healthy_dataset_has_only_an_advice() -> None:
    (found,) = size_findings(tables(), nano())
    assert found.severity is Severity.INFORMATION
    assert "320 x 240 pixels" in found.what
    assert found.remedy == "the input suits them"


@pytest.mark.parametrize(("tiny", "severity"), [(0, None), (1, Severity.LOOK), (4, Severity.HURTS)])
def test_objects_that_leave_no_trace(tiny: int, severity: Severity | None) -> None:
    train = annotations([[*squares(60), *squares(1.5, tiny)]] * 3)
    found = alarming(size_findings(tables(train), nano()))
    assert [each.severity for each in found] == ([severity] if severity else [])
    if found:
        assert "smaller than 2 pixels at the input's 240 x 400" in found[0].what
        assert len(found[0].examples[0].boxes) == tiny


def test_objects_below_a_token_are_told_with_an_input_that_suits_them() -> None:
    found = only(size_findings(tables(annotations([squares(7)] * 3)), nano()))
    assert found.severity is Severity.LOOK
    assert "smaller than 8 pixels" in found.what
    assert "--model.input.short-side 576" in found.remedy
    assert "--augmentation.short-sides 576" in found.remedy


def test_an_input_that_is_enlarged_so_finds_nothing_more() -> None:
    from dataclasses import replace

    config = nano()
    larger = replace(config.model.input, short_side=576, max_side=768)
    config = replace(config, model=replace(config.model, input=larger))
    assert alarming(size_findings(tables(annotations([squares(7)] * 3)), config)) == []


def test_large_images_of_tiny_objects_are_to_be_cut_into_tiles() -> None:
    train = annotations([squares(12)] * 3, size=(3000, 4000))
    found = alarming(size_findings(tables(train), nano()))[0]
    assert found.severity is Severity.HURTS
    assert "tiles" in found.remedy


def test_long_images_are_told_that_their_shorter_side_is_squeezed() -> None:
    train = annotations([squares(60, 5)] * 3, size=(240, 1200))
    found = only(size_findings(tables(train), nano()))
    assert "100 % of the images of train are so long (5.0 to 1)" in found.what
    assert "--model.input.max-side 1216" in found.remedy


def test_padding_is_told_where_batches_mix_shapes() -> None:
    upright, wide = ((squares(60, 3)) for _ in range(2))
    one = annotations([upright] * 6, size=(400, 240))
    other = annotations([wide] * 6, size=(240, 400), first_image=50)
    mixed = type(one)(
        one.images + other.images, one.objects + other.objects, one.categories, one.source
    )
    found = only(size_findings(tables(mixed), nano()))
    assert "of a batch of 8 is padding" in found.what
    assert found.remedy.startswith("train with --batch-size 1 --accumulate 8")
    assert alarming(size_findings(tables(one), nano())) == []
    assert alarming(size_findings(tables(mixed), nano(aspect_bucketing=True))) == []
