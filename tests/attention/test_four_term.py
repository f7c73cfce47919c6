"""Four-term attention against the paper's equation written as loops over queries and keys."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, combinations
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from saccade.attention.four_term import FourTermAttention
from saccade.config_parts import TERMS
from saccade.structures import Tokens
from tests.attention.memories import WIDTH, attend, memory_of, part_of, randomised, repeated

HEADS = 2
CHANNELS = WIDTH // HEADS
SUBSETS = list(chain.from_iterable(combinations(TERMS, count) for count in range(1, 5)))


def four_term(terms: tuple[str, ...], dropout: float = 0.0) -> FourTermAttention:
    torch.manual_seed(0)
    attention = FourTermAttention(WIDTH, HEADS, dropout, terms)
    return randomised(attention)


@pytest.fixture(params=SUBSETS, ids=" ".join)
def attention(request: pytest.FixtureRequest) -> FourTermAttention:
    return four_term(request.param)


def waves(offset: int) -> torch.Tensor:
    """R of one axis: the sines of all waves, then the cosines."""
    count = WIDTH // 4
    angles = [offset / 1000 ** (wave / count) for wave in range(count)]
    parts = [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
    return torch.tensor(parts, dtype=torch.float64)


def of_head(vector: torch.Tensor, head: int) -> torch.Tensor:
    return vector[head * CHANNELS : (head + 1) * CHANNELS]


def logit(
    attention: FourTermAttention, head: int, z: torch.Tensor, x: torch.Tensor, dx: int, dy: int
) -> torch.Tensor:
    """E1 + E2 + E3 + E4 of one query and one key (Eq. 4 to 7), over sqrt(D)."""
    total = torch.zeros((), dtype=torch.float64)
    if attention.terms & {"query-key", "query-position"}:
        query = of_head(attention.query_projection.weight @ z, head)
    if attention.terms & {"query-key", "key"}:
        key = of_head(attention.key_projection.weight @ x, head)
    if attention.terms & {"query-position", "position"}:
        along_x = attention.relative_x.projection.weight @ waves(dx)
        along_y = attention.relative_y.projection.weight @ waves(dy)
        position = of_head(along_x + along_y, head)
    if "query-key" in attention.terms:
        total += query @ key
    if "query-position" in attention.terms:
        total += query @ position
    if "key" in attention.terms:
        total += attention.key_vector[head, 0] @ key
    if "position" in attention.terms:
        total += attention.position_vector[head, 0] @ position
    return total / CHANNELS**0.5


def by_loops(attention: FourTermAttention, memory: Tokens) -> torch.Tensor:
    """The attended tokens in float64; `attention` and `memory` are of float64 too."""
    height, width = memory.spatial_shapes[0]
    places = [(row, column) for row in range(height) for column in range(width)]
    attended = torch.zeros_like(memory.features)
    for image, features in enumerate(memory.features):
        values = features @ attention.value_projection.weight.T + attention.value_projection.bias
        for q, (row, column) in enumerate(places):
            for head in range(HEADS):
                total, gathered = 0.0, torch.zeros(CHANNELS, dtype=torch.float64)
                for k, (key_row, key_column) in enumerate(places):
                    if memory.mask is not None and memory.mask[image, k]:
                        continue
                    offset = (key_column - column, key_row - row)
                    weight = logit(attention, head, features[q], features[k], *offset).exp()
                    total += weight
                    gathered += weight * of_head(values[k], head)
                attended[image, q, head * CHANNELS : (head + 1) * CHANNELS] = gathered / total
    projection = attention.output_projection
    return attended @ projection.weight.T + projection.bias


@torch.no_grad()
@pytest.mark.parametrize("valid", [[(2, 3), (2, 3)], [(2, 3), (1, 2)]])
def test_every_subset_of_the_terms_is_the_papers_equation(
    attention: FourTermAttention, valid: list[tuple[int, int]]
) -> None:
    memory = memory_of((2, 3), valid)
    found = attend(attention, memory)
    exact = replace(memory, features=memory.features.double(), positions=memory.positions.double())
    expected = by_loops(attention.double(), exact)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_changes_nothing_and_a_batch_is_its_images(attention: FourTermAttention) -> None:
    memory = memory_of((4, 5), [(4, 5), (3, 2), (1, 4)])
    together = attend(attention, memory)
    for image, valid in enumerate([(4, 5), (3, 2), (1, 4)]):
        alone = attend(attention, part_of(memory, image, valid))
        kept = together[image].unflatten(0, (4, 5))[: valid[0], : valid[1]].flatten(0, 1)
        torch.testing.assert_close(kept, alone[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_images_of_one_size_are_a_batch_of_single_ones(attention: FourTermAttention) -> None:
    memory = memory_of((3, 4), [(3, 4)] * 3)
    together = attend(attention, memory)
    for image in range(3):
        alone = attend(attention, part_of(memory, image, (3, 4)))
        torch.testing.assert_close(together[[image]], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("valid", [[(2, 3)], [(2, 2)]])
def test_gradients_are_those_of_finite_differences(
    attention: FourTermAttention, valid: list[tuple[int, int]]
) -> None:
    attention = attention.double()
    memory = memory_of((2, 3), valid, dtype=torch.float64)
    names, values = zip(*attention.named_parameters(), strict=True)

    def outputs(features: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        tokens = replace(memory, features=features)
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(attention, state, (features, None, tokens))

    inputs = [memory.features, *(value.detach() for value in values)]
    assert torch.autograd.gradcheck(
        outputs, [each.clone().requires_grad_() for each in inputs], fast_mode=True
    )


def test_every_parameter_of_a_subset_gets_a_gradient(attention: FourTermAttention) -> None:
    attend(attention, memory_of((3, 4), [(3, 4)])).square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@torch.no_grad()
def test_attention_moves_with_what_it_looks_at(attention: FourTermAttention) -> None:
    """The same tokens elsewhere in a larger, otherwise padded level attend as before."""
    block = memory_of((2, 3), [(2, 3)])
    alone = attend(attention, block)
    for row, column in ((0, 0), (1, 2), (3, 4)):
        features = torch.full((1, 5, 7, WIDTH), 9.0)
        mask = torch.ones(1, 5, 7, dtype=torch.bool)
        features[:, row : row + 2, column : column + 3] = block.features.view(1, 2, 3, WIDTH)
        mask[:, row : row + 2, column : column + 3] = False
        moved = replace(
            block,
            features=features.flatten(1, 2),
            positions=torch.zeros(1, 35, WIDTH),
            mask=mask.flatten(1),
            spatial_shapes=((5, 7),),
        )
        found = attend(attention, moved)[:, ~moved.mask[0]]
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_only_the_terms_of_position_see_where_tokens_are(attention: FourTermAttention) -> None:
    """Permuting tokens permutes what the terms of content attend to, and nothing else does so."""
    memory = memory_of((3, 4), [(3, 4)])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(5))
    permuted = replace(memory, features=memory.features[:, order])
    before, after = attend(attention, memory)[:, order], attend(attention, permuted)
    sees = bool(attention.terms & {"query-position", "position"})
    assert torch.allclose(before, after, atol=1e-5) != sees


@torch.no_grad()
def test_absolute_positions_play_no_part(attention: FourTermAttention) -> None:
    memory = memory_of((3, 4), [(3, 4)])
    elsewhere = replace(memory, positions=memory.positions + 1.0)
    assert torch.equal(attend(attention, memory), attend(attention, elsewhere))


@torch.no_grad()
def test_the_key_alone_is_one_row_for_all_queries() -> None:
    attended = attend(four_term(("key",)), memory_of((3, 4), [(3, 4)]))
    assert torch.equal(attended, attended[:, :1].expand_as(attended))


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest tensor holds that is made while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                stored = leaf.untyped_storage().nbytes() // leaf.element_size()
                self.numbers = max(self.numbers, stored)
        return made


@pytest.mark.parametrize(
    ("terms", "largest"),
    [
        (TERMS, 3 * HEADS * 144 * 144),
        (("query-position",), 3 * HEADS * 144 * 144),
        # One map for all images.
        (("position",), HEADS * 144 * 144),
        # Not even one map: the keys are the largest, 4 channels a head lengthened to 8.
        (("key",), 3 * 144 * HEADS * 8),
    ],
    ids=["all", "query-position", "position", "key"],
)
def test_no_tensor_is_larger_than_the_map_the_terms_need(
    terms: tuple[str, ...], largest: int
) -> None:
    attention = four_term(terms)
    memory = memory_of((12, 12), [(12, 12)] * 3)
    with LargestTensor() as seen:
        attend(attention, memory).sum().backward()
    assert seen.numbers <= largest


@torch.no_grad()
def test_dropout_acts_on_the_weights_while_training_only(attention: FourTermAttention) -> None:
    memory = memory_of((3, 4), [(3, 4)] * 2)
    plain = attend(attention, memory)
    attention.dropout = 1.0
    assert torch.equal(attend(attention, memory), plain)
    dropped = attend(attention.train(), memory)
    assert torch.equal(dropped, attention.output_projection.bias.expand_as(dropped))


@torch.no_grad()
@pytest.mark.parametrize("terms", [TERMS, ("position",)], ids=" ".join)
def test_each_image_drops_weights_of_its_own(terms: tuple[str, ...]) -> None:
    attention = four_term(terms, dropout=0.5).train()
    torch.manual_seed(0)
    first, second = attend(attention, repeated(memory_of((3, 4), [(3, 4)])))
    assert not torch.allclose(first, second)


@torch.no_grad()
@pytest.mark.parametrize("terms", SUBSETS, ids=" ".join)
def test_half_precision_is_close(terms: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    attention = FourTermAttention(WIDTH, HEADS, 0.0, terms)
    memory = memory_of((4, 5), [(4, 5), (3, 5)])
    exact = attend(attention, memory)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(attend(attention, memory).float(), exact, atol=0.03, rtol=0.02)


@torch.no_grad()
def test_a_map_that_does_not_fit_is_refused_with_its_size() -> None:
    memory = memory_of((160, 160), [(160, 160)])
    message = (
        r"takes 5,000 MiB \(1 x 2 x 25600 x 25600 numbers of 4 bytes\): expected at most 2,048 "
        r'MiB; use smaller images or batches, a GPU, or encoder\.terms "key" alone'
    )
    with pytest.raises(ValueError, match=message):
        attend(four_term(TERMS), memory)
    assert attend(four_term(("key",)), memory).isfinite().all()
