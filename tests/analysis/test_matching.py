from dataclasses import replace

import pytest
import torch

from saccade.analysis.matching import TeacherMatching, assignment, matching_change
from saccade.model import DetectorModel
from saccade.recipe_config import LossConfig
from saccade.structures import Batch, Predictions, Targets
from saccade.training import HungarianMatcher, SetCriterion
from tests.conftest import small_config


def a_batch() -> tuple[Batch, list[Targets]]:
    generator = torch.Generator().manual_seed(1)
    batch = Batch.from_images([torch.randn(3, 64, 64, generator=generator) for _ in range(2)])
    boxes = torch.tensor([[4.0, 4.0, 30.0, 40.0], [20.0, 10.0, 60.0, 60.0]])
    first = Targets(boxes, torch.tensor([0, 1]), (64, 64), image_id=7)
    return batch, [first, replace(first, boxes=boxes[:1], labels=torch.tensor([1]), image_id=3)]


def detector(kind: str, seed: int = 0, num_queries: int = 12) -> DetectorModel:
    torch.manual_seed(seed)
    model = DetectorModel(small_config(kind, num_queries)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def criterion_and_matcher(kind: str) -> tuple[SetCriterion, HungarianMatcher]:
    config = small_config(kind)
    criterion = SetCriterion(LossConfig(), config.num_classes, config.classification)
    return criterion, criterion.matcher


def test_an_assignment_says_for_each_query_which_object_it_answers_for() -> None:
    model, (_, matcher) = detector("detr"), criterion_and_matcher("detr")
    model.train()
    batch, targets = a_batch()
    found = assignment(model, [(batch, targets)], matcher)
    assert model.training
    assert list(found) == [7, 3]
    for target in targets:
        answers = found[target.image_id]
        assert answers.shape == (12,)
        objects = list(range(len(target.labels)))
        assert sorted(answers.tolist()) == [-1] * (12 - len(objects)) + objects
    with torch.no_grad():
        predictions = model.eval()(batch)
    queries, objects_of_queries = matcher(predictions.logits, predictions.boxes, targets)[0]
    assert torch.equal(found[7][queries], objects_of_queries)


def test_changes_are_counted_over_queries() -> None:
    before = {1: torch.tensor([0, 1, -1, -1, -1]), 2: torch.tensor([-1, -1, -1, 0, -1])}
    same = matching_change(before, before)
    assert (same.num_queries, same.num_matched, same.num_changed) == (10, 3, 0)
    assert same.share == same.share_of_matched == 0
    # Image 1: the two objects change places; image 2: the object goes to another query.
    after = {1: torch.tensor([1, 0, -1, -1, -1]), 2: torch.tensor([0, -1, -1, -1, -1])}
    change = matching_change(before, after)
    assert (change.num_matched, change.num_changed) == (4, 4)
    assert change.share == pytest.approx(0.4)
    assert change.share_of_matched == 1


def test_two_detectors_differ_and_one_agrees_with_itself() -> None:
    _, matcher = criterion_and_matcher("learned")
    first, second = (assignment(detector("learned", seed), [a_batch()], matcher) for seed in (0, 1))
    assert matching_change(first, first).num_changed == 0
    assert matching_change(first, second).num_changed > 0


def test_images_without_objects_change_nothing() -> None:
    nothing = {1: torch.full((4,), -1)}
    change = matching_change(nothing, nothing)
    assert (change.share, change.share_of_matched) == (0, 0)


def test_assignments_that_cannot_be_compared_are_refused() -> None:
    queries = torch.tensor([0, -1])
    with pytest.raises(ValueError, match="1 are only in the first, 2 only in the second"):
        matching_change({1: queries}, {2: queries, 3: queries})
    with pytest.raises(ValueError, match="has 2 queries in the first assignment and 1 in the"):
        matching_change({1: queries}, {1: queries[:1]})


def test_proposals_cannot_be_followed() -> None:
    _, matcher = criterion_and_matcher("two-stage")
    with pytest.raises(ValueError, match="the detector's queries are proposals"):
        assignment(detector("two-stage"), [a_batch()], matcher)


def test_all_layers_of_the_student_learn_what_the_teacher_matched() -> None:
    criterion, matcher = criterion_and_matcher("detr")
    student, teacher = detector("detr", seed=0), detector("detr", seed=1)
    batch, targets = a_batch()
    teaching = TeacherMatching(teacher, matcher)
    predictions = student(batch)
    losses = criterion(teaching.distil(predictions, batch, targets), targets)
    with torch.no_grad():
        theirs = teacher(batch)
    matches = matcher(theirs.logits, theirs.boxes, targets)
    num_objects = 3
    for layer, suffix in ((predictions, ""), (predictions.auxiliary[0], "_0")):
        distance = sum(
            (layer.boxes[image, queries] - target.fractions[objects]).abs().sum()
            for image, (target, (queries, objects)) in enumerate(zip(targets, matches, strict=True))
        )
        torch.testing.assert_close(losses[f"loss_bbox{suffix}"], distance / num_objects)
    own = criterion(predictions, targets)
    assert own["loss_bbox"] != losses["loss_bbox"]
    criterion.total(losses).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(parameter.grad is not None for parameter in student.parameters())


def test_a_detector_taught_by_itself_has_its_own_loss() -> None:
    criterion, matcher = criterion_and_matcher("learned")
    model = detector("learned")
    batch, targets = a_batch()
    predictions = replace(model(batch), auxiliary=())
    taught = TeacherMatching(model, matcher).distil(predictions, batch, targets)
    own, distilled = criterion(predictions, targets), criterion(taught, targets)
    for name, loss in own.items():
        assert torch.equal(loss, distilled[name]), name


def test_a_teacher_with_more_queries_is_refused() -> None:
    _, matcher = criterion_and_matcher("detr")
    batch, targets = a_batch()
    matches = TeacherMatching(detector("detr"), matcher).match(batch, targets)
    few = int(max(queries.max() for queries, _ in matches))
    predictions = Predictions(torch.zeros(2, few, 3), torch.rand(2, few, 4))
    with pytest.raises(ValueError, match=f"matched its query {few}, but the student has {few}:"):
        TeacherMatching(detector("detr"), matcher).distil(predictions, batch, targets)


def test_images_without_objects_can_be_taught() -> None:
    criterion, matcher = criterion_and_matcher("detr")
    batch, targets = a_batch()
    empty = [replace(each, boxes=each.boxes[:0], labels=each.labels[:0]) for each in targets]
    model = detector("detr")
    taught = TeacherMatching(detector("detr", seed=1), matcher).distil(model(batch), batch, empty)
    losses = criterion(taught, empty)
    assert losses["loss_bbox"] == 0
    assert criterion.total(losses).isfinite()
