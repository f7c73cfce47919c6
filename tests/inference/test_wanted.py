import pytest
import torch

from saccade.inference.wanted import Wanted, labels_of
from saccade.structures import Predictions

NAMES = ["person", "forklift", "Dog"]


def predictions(logits: list[list[float]]) -> Predictions:
    return Predictions(torch.tensor([logits]), torch.rand(1, len(logits), 4))


def test_other_classes_take_no_part_of_the_best() -> None:
    outputs = predictions([[5.0, 1.0], [4.0, 0.0], [3.0, -1.0]])
    (found,) = Wanted(top_k=2, labels=frozenset({1})).choose(outputs, "sigmoid")
    assert found.labels.tolist() == [1, 1]
    torch.testing.assert_close(found.scores, torch.tensor([1.0, 0.0]).sigmoid())


def test_a_filter_changes_no_score_of_a_softmax() -> None:
    outputs = predictions([[3.0, 2.0, 0.0], [1.0, 2.0, 0.0]])
    (everything,) = Wanted().choose(outputs, "softmax")
    (found,) = Wanted(labels=frozenset({1})).choose(outputs, "softmax")
    assert found.labels.tolist() == [1]
    assert found.scores == everything.scores[everything.labels == 1]
    assert found.queries.tolist() == [1]


def test_classes_are_found_by_name() -> None:
    assert labels_of(["forklift", "Dog"], NAMES) == {1, 2}
    assert labels_of([], NAMES) is None


@pytest.mark.parametrize(("name", "closest"), [("forklifts", "forklift"), ("dog", "Dog")])
def test_an_unknown_class_is_told_the_closest(name: str, closest: str) -> None:
    with pytest.raises(ValueError, match=f'no class "{name}": the closest is "{closest}", and'):
        labels_of(["person", name], NAMES)


def test_a_threshold_in_percent_is_refused() -> None:
    with pytest.raises(ValueError, match="threshold is 30"):
        Wanted(threshold=30)
