import pytest

from saccade.doctor.class_checks import class_findings
from saccade.doctor.findings import Severity

from .datasets import Box, alarming, annotations, healthy, only, tables

BOX: Box = (20, 20, 60, 60)


def test_a_healthy_dataset_has_nothing_to_say() -> None:
    assert class_findings(tables()) == []


def test_a_class_that_is_only_evaluated_hurts() -> None:
    train = annotations([[(1, BOX), (2, (90, 20, 50, 50))]] * 12)
    found = only(class_findings(tables(train)))
    assert found.severity is Severity.HURTS
    assert found.what.startswith("1 of the 3 classes that are evaluated on val has no object")
    assert "cow; 6 objects there" in found.what


def test_a_dataset_without_any_object_to_train_on_hurts() -> None:
    found = only(class_findings(tables(annotations([[]] * 5))))
    assert found.severity is Severity.HURTS
    assert "nothing to learn" in found.what


def test_a_class_that_nobody_uses_is_for_information() -> None:
    both = [annotations([[(1, BOX), (2, (90, 20, 50, 50))]] * 12, first_image=i) for i in (1, 99)]
    (found,) = class_findings(tables(*both))
    assert found.severity is Severity.INFORMATION
    assert "1 class is listed that no object is of (cow)" in found.what


def test_classes_of_few_objects_are_named_the_rarest_first() -> None:
    train = annotations([[(1, BOX)]] * 12 + [[(2, BOX)]] * 3 + [[(3, BOX)]] * 2)
    found = only(class_findings(tables(train)))
    assert found.severity is Severity.LOOK
    assert "2 classes have fewer than 10 objects to train on (cow 2, dog 3)" in found.what


def test_a_class_a_hundred_times_as_common_as_another_is_worth_a_look() -> None:
    many = [(1, (float(x), 5.0, 10.0, 10.0)) for x in range(0, 300, 3)]
    train = annotations([[*many, (2, BOX), (3, BOX)]] * 10)
    found = only(class_findings(tables(train)))
    assert '"cat" has 1,000 objects in train, "dog" 10' in found.what


@pytest.mark.parametrize(("empty", "alarms"), [(1, 0), (13, 1)])
def test_images_without_objects_alarm_only_when_they_are_most(empty: int, alarms: int) -> None:
    full = [[(1, BOX), (2, BOX), (3, BOX)]] * 12
    findings = class_findings(tables(annotations([*full, *[[]] * empty])))
    assert len(findings) == 1
    assert len(alarming(findings)) == alarms
    assert ("has no object" if empty == 1 else "have no object") in findings[0].what


def test_crowds_are_not_counted_as_objects_to_train_on() -> None:
    train = healthy()
    objects = tuple(
        type(each)(each.image_id, each.category_id, each.box, each.area, each.category_id == 3)
        for each in train.objects
    )
    crowded = type(train)(train.images, objects, train.categories, train.source)
    assert "cow; 6 objects" in only(class_findings(tables(crowded))).what
