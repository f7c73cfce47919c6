import math

import pytest
import torch

from saccade.boxes import paired_iou
from saccade.recipe_config import LossConfig
from saccade.structures import Predictions, Targets
from saccade.training import SetCriterion
from saccade.training.classification import focal, matchability, varifocal

LOGITS = torch.tensor([[[[0.3, -1.0], [2.0, 0.1], [-0.5, -2.0]]]], dtype=torch.float64)
ROWS, LABELS = torch.tensor([1]), torch.tensor([0])


def by_hand(matched: dict[tuple[int, int], float], kind: str) -> float:
    """The sum over queries and classes, one number at a time."""
    total = 0.0
    for query in range(3):
        for label in range(2):
            p = 1 / (1 + math.exp(-LOGITS[0, 0, query, label].item()))
            q = matched.get((query, label))
            if kind == "varifocal":
                if not q:
                    total += -0.75 * p**2 * math.log(1 - p)
                else:
                    total += -q * (q * math.log(p) + (1 - q) * math.log(1 - p))
            elif q is None:
                total += -(p**1.5) * math.log(1 - p)
            else:
                wanted = q**1.5
                total += -wanted * math.log(p) - (1 - wanted) * math.log(1 - p)
    return total


@pytest.mark.parametrize(("kind", "loss"), [("varifocal", varifocal), ("match", matchability)])
@pytest.mark.parametrize("quality", [0.0, 0.4, 1.0])
def test_losses_of_quality_are_those_of_the_papers(kind: str, loss, quality: float) -> None:  # type: ignore[no-untyped-def]
    found = loss(LOGITS, ROWS, LABELS, torch.tensor([quality], dtype=torch.float64))
    assert found.item() == pytest.approx(by_hand({(1, 0): quality}, kind), rel=1e-12)


def test_the_focal_loss_is_that_of_the_paper() -> None:
    p = LOGITS[0, 0].sigmoid()
    expected = -(0.75 * p**2 * (1 - p).log())
    expected[1, 0] = -(0.25 * (1 - p[1, 0]) ** 2 * p[1, 0].log())
    torch.testing.assert_close(focal(LOGITS, ROWS, LABELS, 0.25, 2.0)[0], expected.sum())


@pytest.mark.parametrize("quality", ["varifocal", "matchability"])
def test_a_better_box_asks_for_a_higher_score(quality: str) -> None:
    target = Targets(torch.tensor([[16.0, 16, 48, 48]]), torch.tensor([1]), (64, 64))
    gradients = []
    for width in (0.5, 0.3):
        logits = torch.zeros(1, 1, 2, requires_grad=True)
        boxes = torch.tensor([[[0.5, 0.5, width, 0.5]]])
        criterion = SetCriterion(LossConfig(quality=quality), 2)  # type: ignore[arg-type]
        criterion(Predictions(logits, boxes), [target])["loss_ce"].backward()
        assert logits.grad is not None
        gradients.append(logits.grad[0, 0, 1].item())
    assert gradients[0] < gradients[1]


def test_no_gradient_flows_through_the_quality_into_the_box() -> None:
    target = Targets(torch.tensor([[16.0, 16, 48, 48]]), torch.tensor([1]), (64, 64))
    boxes = torch.tensor([[[0.5, 0.5, 0.3, 0.5]]], requires_grad=True)
    logits = torch.zeros(1, 1, 2, requires_grad=True)
    criterion = SetCriterion(LossConfig(quality="matchability"), 2)
    criterion(Predictions(logits, boxes), [target])["loss_ce"].backward()
    assert boxes.grad is None or not boxes.grad.any()


def test_a_softmax_detector_has_no_such_scores() -> None:
    with pytest.raises(ValueError, match=r'loss\.quality is "varifocal", but .* by a softmax'):
        SetCriterion(LossConfig(quality="varifocal"), 2, "softmax")


def test_an_unknown_loss_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r'loss\.quality is "iou": expected one of none, varifo'):
        LossConfig(quality="iou")  # type: ignore[arg-type]


def test_overlaps_of_pairs() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1], [3, 3, 3, 3], [0, 0, 4, 4]])
    others = torch.tensor([[0.0, 0, 2, 2], [2, 2, 3, 3], [3, 3, 3, 3], [1, 1, 3, 3]])
    assert paired_iou(boxes, others).tolist() == [1.0, 0.0, 0.0, 0.25]
