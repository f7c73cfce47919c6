from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jaxtyping
import pytest
import torch
from torch import Tensor

Shapes = Sequence[tuple[int, int]]


class Case(NamedTuple):
    """Arguments of ms_deform_attn, in its order."""

    value: Tensor
    spatial_shapes: Shapes
    sampling_locations: Tensor
    attention_weights: Tensor

    def like(self, dtype: torch.dtype) -> "Case":
        return Case(*(x.detach().to(dtype) if isinstance(x, Tensor) else x for x in self))

    def with_gradients(self) -> "Case":
        return Case(
            *(x.detach().clone().requires_grad_() if isinstance(x, Tensor) else x for x in self)
        )

    def out_and_gradients(self, function: Callable[..., Tensor]) -> list[Tensor]:
        """Output and the three gradients of a fixed, uneven sum of it."""
        leaves = self.with_gradients()
        out = function(*leaves)
        slope = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).cos().view(out.shape)
        tensors = (leaves.value, leaves.sampling_locations, leaves.attention_weights)
        return [out.detach(), *torch.autograd.grad(out, tensors, slope.to(out.dtype))]


@pytest.fixture
def make_case() -> Callable[..., Case]:
    def make(
        shapes: Shapes = ((7, 9), (3, 5)),
        images: int = 2,
        queries: int = 13,
        heads: int = 3,
        channels: int = 32,
        points: int = 4,
        dtype: torch.dtype = torch.float32,
        margin: float = 0.3,
    ) -> Case:
        """Random samples in and, by ``margin`` of the map, around the maps."""
        generator = torch.Generator().manual_seed(0)
        tokens = sum(height * width for height, width in shapes)
        levels = len(shapes)
        value = torch.randn(images, tokens, heads, channels, generator=generator)
        size = (images, queries, heads, levels, points)
        locations = torch.rand(*size, 2, generator=generator) * (1 + 2 * margin) - margin
        weights = torch.randn(*size, generator=generator).flatten(3).softmax(-1).view(size)
        return Case(value, list(shapes), locations, weights).like(dtype)

    return make


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """In this mode PyTorch fills the memory of torch.empty with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """As users run it: our tests have jaxtyping check all annotations, and it would speak first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
