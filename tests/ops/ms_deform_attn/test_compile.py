"""torch.compile, torch.export and symbolic tracing, with sizes that change."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.fx.experimental.proxy_tensor import make_fx

from saccade.ops import ms_deform_attn, ms_deform_attn_fused

from .forms import (
    FORMS,
    call,
    every_backend,
    every_form,
    random_case,
    registered,
    tensors,
    upstream_of,
)


class Sampler(torch.nn.Module):
    """Flattens maps [B, M * D, H, W] and attends to them, as detectors do."""

    def __init__(self, form, backend, heads=2, points=(4, 4)):
        super().__init__()
        self.form, self.backend, self.heads, self.points = form, backend, heads, points

    def forward(self, maps, *rest):
        shapes = [(x.shape[-2], x.shape[-1]) for x in maps]
        value = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)
        value = value.unflatten(-1, (self.heads, -1))
        if self.form == "plain":
            return ms_deform_attn(value, shapes, *rest, backend=self.backend) * 2
        out = ms_deform_attn_fused(value, shapes, *rest, self.points, backend=self.backend)
        return out * 2


def inputs_of(form, shapes, images, queries):
    case = random_case(form, shapes, images=images, queries=queries)
    values = case.value.flatten(2).split([height * width for height, width in shapes], 1)
    maps = [
        x.transpose(1, 2).unflatten(-1, shape).contiguous()
        for x, shape in zip(values, shapes, strict=True)
    ]
    return maps, list(tensors(case).values())[1:]


def with_gradients(function, maps, rest):
    maps, rest = ([x.detach().requires_grad_() for x in group] for group in (maps, rest))
    out = function(maps, *rest)
    return [out.detach(), *torch.autograd.grad(out, [*maps, *rest], upstream_of(out))]


SIZES = (([(7, 9), (5, 6)], 3, 11), ([(8, 6), (4, 3)], 5, 10), ([(5, 12), (2, 7)], 4, 9))


@pytest.mark.parametrize(
    ("form", "backend"), [*((form, "cpu") for form in FORMS), ("fused-boxes", "reference")]
)
def test_compiles_for_all_sizes_at_once_and_in_one_graph(form, backend, unchecked_shapes):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    sampler = Sampler(form, backend)
    compiled = torch.compile(sampler, fullgraph=True, dynamic=True, backend=counter)
    compilations = set()
    for size in SIZES[:2]:
        maps, rest = inputs_of(form, *size)
        for ours, expected in zip(
            with_gradients(compiled, maps, rest), with_gradients(sampler, maps, rest), strict=True
        ):
            torch.testing.assert_close(ours, expected, rtol=0, atol=0)
        compilations.add(counter.frame_count)
    assert len(compilations) == 1


@every_form
@every_backend
def test_an_exported_program_runs_at_other_sizes(form, backend, unchecked_shapes):
    sampler = Sampler(form, backend)
    dynamic = torch.export.Dim.DYNAMIC
    maps, rest = inputs_of(form, *SIZES[0])
    dimensions = (
        [{0: dynamic, 2: dynamic, 3: dynamic} for _ in maps],
        tuple({0: dynamic, 1: dynamic} for _ in rest),
    )
    program = torch.export.export(sampler, (maps, *rest), dynamic_shapes=dimensions)
    ours = [node for node in program.graph.nodes if "saccade" in str(node.target)]
    assert len(ours) == (backend == "cpu")
    for size in SIZES:
        maps, rest = inputs_of(form, *size)
        assert torch.equal(program.module()(maps, *rest), sampler(maps, *rest))


@every_form
def test_traces_symbolically_to_the_registered_operators(form, unchecked_shapes):
    case = random_case(form)

    def both_ways(*given):
        leaves = case._replace(**dict(zip(tensors(case), given, strict=True)))
        out = call(leaves, "cpu")
        return out, *torch.autograd.grad(out.sum(), given)

    given = [x.clone().requires_grad_() for x in tensors(case).values()]
    traced = make_fx(both_ways, tracing_mode="symbolic")(*given)
    targets = {node.target for node in traced.graph.nodes}
    assert set(registered(case)) <= targets
    for ours, expected in zip(traced(*given), both_ways(*given), strict=True):
        assert torch.equal(ours, expected)
