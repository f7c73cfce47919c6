"""The perceptron takes its tokens in parts where nobody wants gradients: the same tokens come."""

import pytest
import torch
from torch import Tensor

from saccade.model import feed_forward
from saccade.model.feed_forward import FeedForward


class Watched(FeedForward):
    """Notes how many tokens it transforms at a time."""

    def __init__(self, pre_norm: bool = False) -> None:
        torch.manual_seed(0)
        super().__init__(8, 16, dropout=0.0, pre_norm=pre_norm)
        self.parts: list[tuple[int, int]] = []

    def transform(self, features: Tensor) -> Tensor:
        self.parts.append((features.shape[0], features.shape[1]))
        return super().transform(features)


def tokens(images: int, count: int) -> Tensor:
    return torch.randn(images, count, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize(
    ("images", "count", "parts"),
    [
        (1, 10, [(1, 10)]),
        (1, 25, [(1, 10), (1, 10), (1, 5)]),
        (3, 7, [(3, 3), (3, 3), (3, 1)]),
        (12, 2, [(12, 1), (12, 1)]),
        (2, 0, [(2, 0)]),
    ],
)
def test_parts_are_the_whole(
    images: int,
    count: int,
    parts: list[tuple[int, int]],
    pre_norm: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed_forward, "TOKENS_AT_A_TIME", 10)
    perceptron = Watched(pre_norm).eval()
    features = tokens(images, count)
    whole = perceptron(features)
    assert perceptron.parts == [(images, count)]
    perceptron.parts.clear()
    with torch.no_grad():
        torch.testing.assert_close(perceptron(features), whole.detach(), rtol=0, atol=1e-6)
    assert perceptron.parts == parts


def test_with_gradients_it_is_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_forward, "TOKENS_AT_A_TIME", 10)
    perceptron = Watched()
    features = tokens(2, 30).requires_grad_()
    perceptron(features).sum().backward()
    assert perceptron.parts == [(2, 30)]
    assert features.grad is not None
