import re

import pytest
import torch
from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher
from transformers.loss.loss_for_object_detection import HungarianMatcher as DetrHungarianMatcher

from saccade.recipe_config import LossConfig
from saccade.structures import Targets
from saccade.training import HungarianMatcher

NUM_CLASSES = 5


def predictions(num_images, num_queries, num_columns=NUM_CLASSES):
    logits = 2 * torch.randn(num_images, num_queries, num_columns)
    boxes = torch.cat(
        [torch.rand(num_images, num_queries, 2), torch.rand(num_images, num_queries, 2) * 0.5], -1
    )
    return logits, boxes


def targets(*num_objects):
    found = []
    for index, count in enumerate(num_objects):
        corners = torch.rand(count, 2) * torch.tensor([120.0, 60.0])
        boxes = torch.cat([corners, corners + 1 + torch.rand(count, 2) * 40], -1)
        labels = torch.randint(NUM_CLASSES, (count,))
        found.append(Targets(boxes, labels, size=(100, 160), image_id=40 + index))
    return found


def as_transformers(found):
    return [{"class_labels": each.labels, "boxes": each.fractions} for each in found]


def as_lists(matches):
    return [(queries.tolist(), objects.tolist()) for queries, objects in matches]


@pytest.mark.parametrize("num_objects", [(1, 4), (7, 0, 3), (12, 30)])
@pytest.mark.parametrize("classification", ["sigmoid", "softmax"])
def test_matches_are_those_of_transformers(classification, num_objects):
    torch.manual_seed(0)
    num_columns = NUM_CLASSES + (classification == "softmax")
    logits, boxes = predictions(len(num_objects), 20, num_columns)
    found = targets(*num_objects)
    theirs = {"sigmoid": DeformableDetrHungarianMatcher, "softmax": DetrHungarianMatcher}
    expected = theirs[classification](class_cost=2, bbox_cost=5, giou_cost=2)(
        {"logits": logits, "pred_boxes": boxes}, as_transformers(found)
    )

    matches = HungarianMatcher(LossConfig(), classification)(logits, boxes, found)

    assert as_lists(matches) == as_lists(expected)
    assert [len(queries) for queries, _ in matches] == [min(20, count) for count in num_objects]
    assert all(index.dtype == torch.int64 for match in matches for index in match)


def test_cost_in_float64():
    torch.manual_seed(1)
    logits, boxes = predictions(1, 6)
    (found,) = targets(4)
    config = LossConfig(
        class_cost=3.0, box_cost=0.7, giou_cost=1.9, focal_alpha=0.4, focal_gamma=3.0
    )

    cost = HungarianMatcher(config).cost(logits[0], boxes[0], found)

    for q in range(6):
        for n in range(4):
            p = logits[0, q, found.labels[n]].double().sigmoid()
            focal = 0.4 * (1 - p) ** 3 * -p.log() - 0.6 * p**3 * -(1 - p).log()
            mine, its = boxes[0, q].double(), found.fractions[n].double()
            (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = (
                (x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in (mine, its)
            )
            shared = max(min(ax1, bx1) - max(ax0, bx0), 0) * max(min(ay1, by1) - max(ay0, by0), 0)
            union = mine[2] * mine[3] + its[2] * its[3] - shared
            hull = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
            giou = shared / union - (hull - union) / hull
            expected = 3.0 * focal + 0.7 * (mine - its).abs().sum() - 1.9 * giou
            assert cost[q, n].item() == pytest.approx(expected.item(), abs=2e-5)


def test_each_layer_is_matched_by_itself():
    torch.manual_seed(2)
    matcher = HungarianMatcher(LossConfig())
    found = targets(5, 0, 9)
    layers = [predictions(3, 15) for _ in range(4)]
    logits, boxes = (torch.stack(parts) for parts in zip(*layers, strict=True))

    together = matcher.match_layers(logits, boxes, found)

    alone = [matcher(*layer, found) for layer in layers]
    assert [as_lists(matches) for matches in together] == [as_lists(matches) for matches in alone]
    assert as_lists(alone[0]) != as_lists(alone[1])


def test_images_without_objects_have_empty_matches():
    for found in (targets(0), targets(0, 0)):
        matches = HungarianMatcher(LossConfig())(*predictions(len(found), 3), found)
        assert as_lists(matches) == [([], [])] * len(found)


def test_half_precision_under_autocast_is_matched_in_float32():
    torch.manual_seed(3)
    matcher = HungarianMatcher(LossConfig())
    logits, boxes = (part.bfloat16() for part in predictions(1, 50))
    found = targets(20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cost = matcher.cost(logits[0], boxes[0], found[0])
    assert cost.dtype == torch.float32
    torch.testing.assert_close(cost, matcher.cost(logits[0].float(), boxes[0].float(), found[0]))


def test_matching_leaves_no_graph():
    logits, boxes = (part.requires_grad_() for part in predictions(1, 3))
    ((queries, _),) = HungarianMatcher(LossConfig())(logits, boxes, targets(2))
    assert not queries.requires_grad
    assert logits.grad is None


def test_invalid_proposals_and_boxes_without_area_can_be_matched():
    logits = torch.zeros(1, 3, NUM_CLASSES)
    # A proposal whose logits are infinite, a point away from the object, a point upon it.
    boxes = torch.tensor([[[1.0, 1.0, 1.0, 1.0], [0.9, 0.9, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]]])
    point = Targets(torch.tensor([[50.0, 50.0, 50.0, 50.0]]), torch.tensor([0]), size=(100, 100))
    matches = HungarianMatcher(LossConfig())(logits, boxes, [point])
    assert as_lists(matches) == [([2], [0])]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"logits": float("nan")}, "1 of 30 predicted logits are not"),
        ({"boxes": float("inf")}, "1 of 24 predicted boxes are not"),
        (
            {"logits": float("nan"), "boxes": float("nan")},
            "1 of 30 predicted logits are not and 1 of 24 predicted boxes are not",
        ),
        ({"boxes": 3e38}, "the finite predicted boxes are too large to compare"),
    ],
)
def test_cost_that_is_not_finite_names_the_image_and_the_culprit(broken, reason):
    torch.manual_seed(4)
    logits, boxes = predictions(2, 6)
    found = targets(3, 40)  # Enough objects for every class to be asked for.
    for name, value in broken.items():
        {"logits": logits, "boxes": boxes}[name][1, 4, 2] = value
    message = (
        f"image 41: the matching cost is not finite because {reason}; the training diverged: "
        "resume from an earlier checkpoint with a lower learning rate."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        HungarianMatcher(LossConfig())(logits, boxes, found)


def test_target_that_is_not_finite_blames_the_annotation():
    (found,) = targets(2)
    found.boxes[1, 3] = float("nan")
    with pytest.raises(
        ValueError,
        match="image 40: the matching cost is not finite because its target boxes are not; "
        r"correct its annotation\.",
    ):
        HungarianMatcher(LossConfig())(*predictions(1, 6), [found])


def test_targets_that_are_not_one_per_image():
    with pytest.raises(
        ValueError, match=r"1 targets for a batch of 2 images: pass one Targets per image"
    ):
        HungarianMatcher(LossConfig())(*predictions(2, 6), targets(3))


def test_forbidden_pairs_are_never_matched():
    """Queries 0 and 1 lie on the objects 0 and 1, but may only answer for the other one."""
    (found,) = targets(3)
    boxes = found.fractions[None, [0, 1, 2, 2]]
    allowed = torch.tensor([[False, True, False], [True, False, False]] + [[False] * 3] * 2)
    (match,) = HungarianMatcher(LossConfig())(
        torch.zeros(1, 4, NUM_CLASSES), boxes, [found], [allowed]
    )
    assert as_lists([match]) == [([0, 1], [1, 0])]


def test_as_many_objects_as_possible_are_matched_then_the_cheapest():
    """Object 1 is left to query 0, though query 0 is perfect for object 0: nobody else may."""
    boxes = torch.tensor([[[0.2, 0.2, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1], [0.21, 0.2, 0.1, 0.1]]])
    corners = torch.tensor([[15.0, 15.0, 25.0, 25.0], [60.0, 20.0, 70.0, 30.0]])
    found = Targets(corners, torch.tensor([0, 0]), size=(100, 100))
    logits = torch.zeros(1, 3, NUM_CLASSES)
    allowed = torch.tensor([[True, True], [True, False], [True, False]])
    matches = HungarianMatcher(LossConfig())(logits, boxes, [found], [allowed])
    assert as_lists(matches) == [([0, 2], [1, 0])]


def test_allowing_all_pairs_restricts_nothing():
    torch.manual_seed(5)
    logits, boxes = predictions(3, 20)
    found = targets(4, 0, 25)
    everything = [torch.ones(20, len(each.labels), dtype=torch.bool) for each in found]
    matcher = HungarianMatcher(LossConfig())
    expected = matcher(logits, boxes, found)
    assert as_lists(matcher(logits, boxes, found, everything)) == as_lists(expected)


def test_an_image_in_which_nothing_is_allowed():
    logits, boxes = predictions(2, 3)
    found = targets(2, 0)
    nothing = [torch.zeros(3, 2, dtype=torch.bool), torch.zeros(3, 0, dtype=torch.bool)]
    matches = HungarianMatcher(LossConfig())(logits, boxes, found, nothing)
    assert as_lists(matches) == [([], []), ([], [])]
    assert all(index.dtype == torch.int64 for match in matches for index in match)
