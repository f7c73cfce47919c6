"""What must not matter: the layout in memory, the company in a batch, the order, the padding."""

import pytest
import torch

from .forms import (
    assert_same,
    call,
    every_backend,
    every_form,
    express,
    random_case,
    replaced,
    results,
    tensors,
)


def misaligned(x):
    """The same numbers, one element after the start of their storage."""
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)


def strided(x):
    return torch.nn.functional.pad(x, (1, 2))[..., 1:-2]


def transposed(x):
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def backwards(x):
    """Numbers laid out with the last axis slowest."""
    return x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim)))


@every_form
@every_backend
@pytest.mark.parametrize("layout", [misaligned, strided, transposed, backwards])
def test_the_layout_in_memory_does_not_matter(form, backend, layout):
    case = random_case(form)
    other = replaced(case, layout)
    assert any(
        x.stride() != y.stride() or x.storage_offset() != y.storage_offset()
        for x, y in zip(tensors(case).values(), tensors(other).values(), strict=True)
    )
    assert_same(results(other, backend), results(case, backend))


@every_form
@every_backend
def test_expanded_inputs_get_the_sum_of_their_gradients(form, backend):
    case = random_case(form, images=1)
    single = results(case, backend)
    leaves = replaced(case, lambda x: x.clone().requires_grad_())
    out = call(replaced(leaves, lambda x: x.expand(3, *x.shape[1:])), backend)
    assert torch.equal(out, single["out"].expand(3, -1, -1))
    upstream = torch.linspace(-1, 2, out[0].numel(), dtype=torch.float64).cos()
    out.backward(upstream.to(out).view(1, *out.shape[1:]).expand_as(out))
    for name, leaf in tensors(leaves).items():
        torch.testing.assert_close(leaf.grad, 3 * single[name], rtol=1e-5, atol=1e-5)


@every_form
@every_backend
@pytest.mark.parametrize("queries", [1, 7, 67])
def test_an_odd_number_of_queries_in_a_batch_is_each_image_alone(form, backend, queries):
    case = random_case(form, queries=queries, heads=3)
    leaves = replaced(case, lambda x: x.clone().requires_grad_())
    out = call(leaves, backend)
    upstream = torch.linspace(-1, 2, out.numel()).cos().view(out.shape)
    out.backward(upstream)
    for image in range(2):
        alone = replaced(case, lambda x, i=image: x[i : i + 1].clone().requires_grad_())
        one = call(alone, backend)
        one.backward(upstream[image : image + 1])
        torch.testing.assert_close(out[image], one[0], rtol=0, atol=1e-6)
        for name, leaf in tensors(leaves).items():
            torch.testing.assert_close(
                leaf.grad[image], getattr(alone, name).grad[0], rtol=1e-5, atol=1e-6, msg=name
            )


@every_form
@every_backend
def test_a_masked_border_is_the_same_as_a_smaller_map(form, backend):
    generator = torch.Generator().manual_seed(0)
    padded, valid = [(8, 8), (4, 4)], [(5, 6), (3, 2)]
    points, size = [2, 2], torch.tensor([[8, 8], [4, 4]])[[0, 0, 1, 1]]
    smaller = torch.tensor([[6, 5], [2, 3]])[[0, 0, 1, 1]]
    locations = torch.rand(2, 9, 2, 4, 2, generator=generator) * 1.2 - 0.1
    logits = torch.randn(2, 9, 2, 4, generator=generator)
    whole, cut = [], []
    for (height, width), (rows, columns) in zip(padded, valid, strict=True):
        level = torch.zeros(2, height, width, 2, 4)
        level[:, :rows, :columns] = torch.randn(2, rows, columns, 2, 4, generator=generator)
        whole.append(level.flatten(1, 2))
        cut.append(level[:, :rows, :columns].flatten(1, 2))
    masked = express(form, torch.cat(whole, 1), padded, points, locations, logits)
    small = express(form, torch.cat(cut, 1), valid, points, locations * size / smaller, logits)
    torch.testing.assert_close(call(masked, backend), call(small, backend), rtol=1e-4, atol=1e-5)


@every_form
@every_backend
def test_queries_do_not_know_their_order(form, backend):
    case = random_case(form, queries=67)
    order = torch.randperm(67, generator=torch.Generator().manual_seed(4))
    shuffled = replaced(case, lambda x: x[:, order])._replace(value=case.value)
    assert torch.equal(call(shuffled, backend), call(case, backend)[:, order])

    def square_gradients(case):
        leaves = replaced(case, lambda x: x.clone().requires_grad_())
        out = call(leaves, backend)
        return torch.autograd.grad(out, list(tensors(leaves).values()), 2 * out.detach())

    (value, *others), (expected, *rest) = square_gradients(shuffled), square_gradients(case)
    for ours, theirs in zip(others, rest, strict=True):
        assert torch.equal(ours, theirs[:, order])
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


@every_form
@every_backend
def test_heads_do_not_know_their_order(form, backend):
    case = random_case(form, heads=5)
    order = torch.tensor([3, 0, 4, 2, 1])
    places = {name: x for name, x in tensors(case).items() if name != "reference_points"}
    shuffled = case._replace(**{name: x[:, :, order] for name, x in places.items()})
    expected = call(case, backend).view(2, 7, 5, 4)[:, :, order].flatten(2)
    assert torch.equal(call(shuffled, backend), expected)
