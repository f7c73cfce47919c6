import torch

from saccade.model import select
from saccade.structures import Predictions

BOXES = torch.tensor([[[0.1, 0.1, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], [0.9, 0.9, 0.1, 0.1]]])


def test_sigmoid_takes_the_best_of_all_queries_and_classes() -> None:
    logits = torch.tensor([[[-9.0, 1.0], [3.0, 2.0], [-9.0, -9.0]]])
    found = select(Predictions(logits, BOXES), "sigmoid", top_k=3)[0]
    assert found.queries.tolist() == [1, 1, 0]
    assert found.labels.tolist() == [0, 1, 1]
    torch.testing.assert_close(found.scores, torch.tensor([3.0, 2.0, 1.0]).sigmoid())
    torch.testing.assert_close(found.boxes, BOXES[0, [1, 1, 0]])


def test_softmax_leaves_no_object_out_and_takes_each_query_once() -> None:
    logits = torch.tensor([[[0.0, 1.0, 9.0], [3.0, 2.0, 0.0], [0.0, 0.0, 0.0]]])
    found = select(Predictions(logits, BOXES), "softmax")[0]
    assert found.queries.tolist() == [1, 2, 0]
    assert found.labels.tolist()[0] == 0
    assert found.labels.tolist()[2] == 1
    expected = logits[0, [1, 2, 0]].softmax(-1)[:, :2].max(-1).values
    torch.testing.assert_close(found.scores, expected)


def test_every_image_of_a_batch_is_ranked_by_itself() -> None:
    logits = torch.tensor([[[1.0], [2.0], [3.0]], [[3.0], [2.0], [1.0]]])
    found = select(Predictions(logits, BOXES.expand(2, -1, -1)), "sigmoid", top_k=2)
    assert [each.queries.tolist() for each in found] == [[2, 1], [0, 1]]
