"""Synthesizer attention against the paper's formulas written as loops over queries and keys."""

from dataclasses import replace

import pytest
import torch

from saccade.attention.synthesizer import (
    DenseMap,
    FactorisedDenseMap,
    FactorisedRandomMap,
    HeadPerceptron,
    RandomMap,
    SynthesizerAttention,
)
from saccade.structures import Tokens
from tests.attention.memories import WIDTH, attend, memory_of, part_of, randomised, repeated

HEADS = 2
MAP_SIZE = (4, 5)
KINDS = {
    "dense": {"rank": 0, "dense": True},
    "factorised dense": {"rank": 1, "dense": True},
    "factorised dense of rank 3": {"rank": 3, "dense": True},
    "random": {"rank": 0, "dense": False},
    "factorised random": {"rank": 2, "dense": False},
}


def synthesizer(kind: str, dropout: float = 0.0) -> SynthesizerAttention:
    torch.manual_seed(0)
    attention = SynthesizerAttention(WIDTH, HEADS, dropout, MAP_SIZE, **KINDS[kind])
    return randomised(attention)


@pytest.fixture(params=list(KINDS))
def attention(request: pytest.FixtureRequest) -> SynthesizerAttention:
    return synthesizer(request.param)


def row_numbers(perceptron: HeadPerceptron, query: torch.Tensor, head: int) -> torch.Tensor:
    """Linear-ReLU-Linear of one query for one head: the whole grid."""
    channels = WIDTH // HEADS
    part = slice(head * channels, (head + 1) * channels)
    hidden = (perceptron.hidden.weight @ query + perceptron.hidden.bias)[part].clamp(min=0)
    grid = perceptron.bias[head].clone()
    for row in range(grid.shape[0]):
        for column in range(grid.shape[1]):
            grid[row, column] += perceptron.weight[head, row, column] @ hidden
    return grid


def logit(
    attention: SynthesizerAttention,
    head: int,
    query: torch.Tensor,
    at: tuple[int, int],
    key: tuple[int, int],
) -> torch.Tensor:
    made = attention.map
    if isinstance(made, DenseMap):
        return row_numbers(made.row, query, head)[key]
    if isinstance(made, FactorisedDenseMap):
        of_row = row_numbers(made.over_rows, query, head)[key[0]]
        of_column = row_numbers(made.over_columns, query, head)[key[1]]
        return sum(a * b for a, b in zip(of_row, of_column, strict=True))
    entries = [row * MAP_SIZE[1] + column for row, column in (at, key)]
    if isinstance(made, RandomMap):
        return made.logits[head].reshape(20, 20)[entries[0], entries[1]]
    assert isinstance(made, FactorisedRandomMap)
    of_query = made.of_queries[head].reshape(20, -1)[entries[0]]
    of_key = made.of_keys[head].reshape(20, -1)[entries[1]]
    return of_query @ of_key


def by_loops(attention: SynthesizerAttention, memory: Tokens) -> torch.Tensor:
    """The attended tokens in float64; `attention` and `memory` are of float64 too."""
    height, width = memory.spatial_shapes[0]
    places = [(row, column) for row in range(height) for column in range(width)]
    attended = torch.zeros_like(memory.features)
    channels = WIDTH // HEADS
    for image, features in enumerate(memory.features):
        queries = features + memory.positions[image]
        values = features @ attention.value_projection.weight.T + attention.value_projection.bias
        for q, at in enumerate(places):
            for head in range(HEADS):
                part = slice(head * channels, (head + 1) * channels)
                total, gathered = 0.0, torch.zeros(channels, dtype=torch.float64)
                for k, key in enumerate(places):
                    if memory.mask is not None and memory.mask[image, k]:
                        continue
                    weight = logit(attention, head, queries[q], at, key).exp()
                    total += weight
                    gathered += weight * values[k, part]
                attended[image, q, part] = gathered / total
    projection = attention.output_projection
    return attended @ projection.weight.T + projection.bias


@torch.no_grad()
@pytest.mark.parametrize("valid", [[(2, 3), (2, 3)], [(2, 3), (1, 2)]])
def test_each_kind_is_the_papers_formula(
    attention: SynthesizerAttention, valid: list[tuple[int, int]]
) -> None:
    memory = memory_of((2, 3), valid)
    found = attend(attention, memory)
    exact = replace(memory, features=memory.features.double(), positions=memory.positions.double())
    expected = by_loops(attention.double(), exact)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_changes_nothing_and_a_batch_is_its_images(attention: SynthesizerAttention) -> None:
    memory = memory_of((4, 5), [(4, 5), (3, 2), (1, 4)])
    together = attend(attention, memory)
    for image, valid in enumerate([(4, 5), (3, 2), (1, 4)]):
        alone = attend(attention, part_of(memory, image, valid))
        kept = together[image].unflatten(0, (4, 5))[: valid[0], : valid[1]].flatten(0, 1)
        torch.testing.assert_close(kept, alone[0], atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_images_of_one_size_are_a_batch_of_single_ones(attention: SynthesizerAttention) -> None:
    memory = memory_of((3, 4), [(3, 4)] * 3)
    together = attend(attention, memory)
    for image in range(3):
        alone = attend(attention, part_of(memory, image, (3, 4)))
        torch.testing.assert_close(together[[image]], alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("valid", [[(2, 2)], [(2, 1)]])
def test_gradients_are_those_of_finite_differences(
    attention: SynthesizerAttention, valid: list[tuple[int, int]]
) -> None:
    attention = attention.double()
    memory = memory_of((2, 2), valid, dtype=torch.float64)
    names, values = zip(*attention.named_parameters(), strict=True)

    def outputs(features: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        tokens = replace(memory, features=features)
        query = features + memory.positions
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(attention, state, (query, None, tokens))

    inputs = [memory.features, *(value.detach() for value in values)]
    assert torch.autograd.gradcheck(
        outputs, [each.clone().requires_grad_() for each in inputs], fast_mode=True
    )


def test_every_parameter_gets_a_gradient(attention: SynthesizerAttention) -> None:
    attend(attention, memory_of((4, 5), [(4, 5)])).square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@torch.no_grad()
def test_no_key_plays_a_part_and_a_learned_map_no_query(attention: SynthesizerAttention) -> None:
    """A row of the map changes with its own query or not at all."""
    memory = memory_of((3, 4), [(3, 4)])
    changed = memory.positions.clone()
    changed[:, 5] += 3.0
    before = attend(attention, memory)
    after = attend(attention, replace(memory, positions=changed))
    differs = (before != after).any(-1)[0].nonzero().flatten().tolist()
    assert differs == ([5] if isinstance(attention.map, DenseMap | FactorisedDenseMap) else [])


@torch.no_grad()
def test_a_factorised_random_map_has_its_rank_and_the_spread_of_a_full_one() -> None:
    torch.manual_seed(0)
    attention = SynthesizerAttention(WIDTH, HEADS, 0.0, (20, 20), rank=8, dense=False)
    logits = attention.double().map(torch.zeros(1, 400, WIDTH), (20, 20))[0]
    assert torch.linalg.matrix_rank(logits).tolist() == [8, 8]
    assert 0.9 < logits.std() < 1.1


@torch.no_grad()
def test_dropout_acts_on_the_weights_while_training_only(attention: SynthesizerAttention) -> None:
    memory = memory_of((3, 4), [(3, 4)] * 2)
    plain = attend(attention, memory)
    attention.dropout = 1.0
    assert torch.equal(attend(attention, memory), plain)
    dropped = attend(attention.train(), memory)
    assert torch.equal(dropped, attention.output_projection.bias.expand_as(dropped))


@torch.no_grad()
def test_each_image_drops_weights_of_its_own() -> None:
    attention = synthesizer("random", dropout=0.5).train()
    twice = repeated(memory_of((3, 4), [(3, 4)]))
    torch.manual_seed(0)
    first, second = attend(attention, twice)
    assert not torch.allclose(first, second)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_close(kind: str) -> None:
    torch.manual_seed(0)
    attention = SynthesizerAttention(WIDTH, HEADS, 0.0, MAP_SIZE, **KINDS[kind])
    memory = memory_of((4, 5), [(4, 5), (3, 5)])
    exact = attend(attention, memory)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(attend(attention, memory).float(), exact, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("size", [(5, 4), (3, 6)])
def test_a_level_larger_than_the_map_is_refused(
    attention: SynthesizerAttention, size: tuple[int, int]
) -> None:
    message = (
        rf"the level has {size[0]} x {size[1]} tokens: expected at most 4 x 5, .* "
        rf"set encoder\.map_size to at least {max(size[0], 4)} {max(size[1], 5)} and train"
    )
    with pytest.raises(ValueError, match=message):
        attend(attention, memory_of(size, [size]))


def test_a_learned_map_that_no_machine_should_hold_is_refused_with_its_size() -> None:
    message = (
        r"over 100 x 168 tokens takes 8,613 MiB \(8 x 16800 x 16800 numbers of 4 bytes\): expected "
        r"at most 2,048 MiB; set encoder\.map_rank to factorise it"
    )
    with pytest.raises(ValueError, match=message):
        SynthesizerAttention(64, 8, 0.1, (100, 168), rank=0, dense=False)
    SynthesizerAttention(64, 8, 0.1, (100, 168), rank=8, dense=False)
