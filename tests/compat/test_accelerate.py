"""What accelerate reports, refuses, leaves alone and takes back."""

import copy
import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers.models.d_fine import modeling_d_fine

from saccade.compat import accelerate, operators, restore

from .comparing import run
from .models import build, inputs

CORE = "ms_deformable_attn_core"


@pytest.mark.parametrize("architecture", ["rt_detr", "d_fine", "mask2former"])
def test_other_models_stay_as_they_are(architecture: str) -> None:
    model, other = build(architecture), build(architecture)
    kinds = [type(module) for module in other.modules()]
    accelerate(model)
    assert [type(module) for module in other.modules()] == kinds
    assert accelerate(other).replaced == 2


# Not mask2former, which transformers gives hooks that cannot be pickled.
@pytest.mark.parametrize("architecture", ["rt_detr", "rt_detr_v2", "d_fine"])
def test_copies_and_pickles_stay_accelerated_and_compute_with_their_own_weights(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(architecture)
    given = inputs(architecture)
    accelerate(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        monkeypatch.setattr(nn.functional, "grid_sample", None)
        expected, _ = run(model, given)
        found, _ = run(twin, given)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        for parameter in twin.parameters():
            parameter.data.zero_()
        unchanged, _ = run(model, given)
        assert all(torch.equal(unchanged[name], expected[name]) for name in expected)
        with pytest.raises(ValueError, match="accelerated before"):
            accelerate(twin)


@pytest.mark.parametrize("architecture", ["rt_detr", "rt_detr_v2", "d_fine"])
def test_a_copy_is_restored_by_itself(architecture: str) -> None:
    model = build(architecture)
    kinds = [type(module) for module in model.modules()]
    cores = [vars(module).get(CORE) for module in model.modules()]
    accelerate(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert restore(twin) == 2
        assert [type(module) for module in twin.modules()] == kinds
        assert [vars(module).get(CORE) for module in twin.modules()] == cores
        assert restore(twin) == 0
        assert accelerate(twin).replaced == 2
    with pytest.raises(ValueError, match="accelerated before"):
        accelerate(model)


def test_a_class_that_something_else_has_made_of_an_accelerated_one_is_left() -> None:
    model = build("rt_detr")
    acceleration = accelerate(model)
    module = model.model.decoder.layers[0].encoder_attn.attn
    module.__class__ = type("Sharded", (type(module),), {})
    acceleration.undo()
    assert type(module).__name__ == "Sharded"
    assert restore(model) == 0


@pytest.mark.parametrize("architecture", ["rt_detr", "d_fine", "mask2former"])
def test_an_accelerated_model_is_saved_as_it_always_was(architecture: str, tmp_path: Path) -> None:
    model = build(architecture)
    model.save_pretrained(tmp_path / "before")
    accelerate(model)
    model.save_pretrained(tmp_path / "after")
    for file in (tmp_path / "before").iterdir():
        assert (tmp_path / "after" / file.name).read_bytes() == file.read_bytes()


def test_an_acceleration_undoes_itself_at_the_end_of_a_block() -> None:
    model = build("rt_detr")
    kinds = [type(module) for module in model.modules()]
    with accelerate(model) as acceleration:
        assert [type(module) for module in model.modules()] != kinds
        assert repr(acceleration) == "Acceleration(replaced=2, left=0)"
        assert acceleration.names == (
            "model.decoder.layers.0.encoder_attn.attn",
            "model.decoder.layers.1.encoder_attn.attn",
        )
    assert [type(module) for module in model.modules()] == kinds


def test_a_second_acceleration_is_refused_until_the_first_is_undone() -> None:
    model = build("mask2former")
    first = accelerate(model)
    with pytest.raises(
        ValueError, match=r"accelerated before, all 2 operators of it; call .*restore\(model\)"
    ):
        accelerate(model)
    first.undo()
    first.undo()
    assert accelerate(model).replaced == 2


def test_a_second_acceleration_takes_what_the_first_did_not_see() -> None:
    model = build("deformable_detr")
    first = accelerate(model.model.decoder)
    second = accelerate(model)
    assert (first.replaced, second.replaced) == (2, 1)
    first.undo()
    assert second.names == ("model.encoder.layers.0.self_attn.attn",)
    assert accelerate(model).replaced == 2


def test_a_model_without_the_operator_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^Linear has no multi-scale deformable attention in"):
        accelerate(nn.Linear(2, 2))


@pytest.mark.parametrize("architecture", ["rt_detr_v2", "d_fine", "deimv2"])
def test_discrete_sampling_is_left_and_said(architecture: str) -> None:
    model = build(architecture, decoder_method="discrete")
    with pytest.raises(ValueError, match=r"has 2 operators but none .* method is 'discrete'"):
        accelerate(model)
    both = nn.ModuleList([model, build("rt_detr")])
    acceleration = accelerate(both)
    assert (acceleration.replaced, len(acceleration.left)) == (2, 2)
    assert "'discrete'" in acceleration.left["0.model.decoder.layers.0.encoder_attn"]


@pytest.mark.parametrize("architecture", ["rt_detr_v2", "d_fine"])
def test_discrete_sampling_asked_of_an_accelerated_model_is_refused(architecture: str) -> None:
    model = build(architecture)
    accelerate(model)
    for module in model.modules():
        for name in ("method", "decoder_method"):
            if hasattr(module, name):
                setattr(module, name, "discrete")
    with pytest.raises(ValueError, match="method is 'discrete'"):
        run(model, inputs(architecture))


def test_a_forward_that_something_else_has_set_is_left() -> None:
    model = build("rt_detr")
    hooked = model.model.decoder.layers[0].encoder_attn.attn
    hooked.forward = hooked.forward
    acceleration = accelerate(model)
    assert acceleration.replaced == 1
    assert list(acceleration.left) == ["model.decoder.layers.0.encoder_attn.attn"]
    assert type(hooked).__name__ == "MultiScaleDeformableAttention"


def test_undo_leaves_what_something_else_has_exchanged_since() -> None:
    model = build("d_fine")
    acceleration = accelerate(model)
    attention = model.model.decoder.layers[0].encoder_attn
    attention.ms_deformable_attn_core = len
    acceleration.undo()
    assert attention.ms_deformable_attn_core is len


def test_a_module_that_only_shares_the_name_is_not_taken_for_the_operator() -> None:
    class MultiScaleDeformableAttention(nn.Module):
        def forward(self, query: Tensor, value: Tensor) -> Tensor:
            return query + value

    with pytest.raises(ValueError, match="has no multi-scale"):
        accelerate(nn.Sequential(MultiScaleDeformableAttention()))


def multi_scale_deformable_attention(value: Tensor) -> Tensor:
    """Named as the function of transformers; another one."""
    return value


def test_a_method_that_only_shares_the_name_is_not_taken_for_the_operator() -> None:
    class Attention(nn.Module):
        def forward(self, value: Tensor) -> Tensor:
            return self.multi_scale_deformable_attention(value)

        def multi_scale_deformable_attention(self, value: Tensor) -> Tensor:
            return value

    with pytest.raises(ValueError, match="has no multi-scale"):
        accelerate(nn.Sequential(Attention()))


def test_a_function_that_only_shares_the_name_is_not_taken_for_the_operator() -> None:
    class Attention(nn.Module):
        def forward(self, value: Tensor) -> Tensor:
            return multi_scale_deformable_attention(value)

    with pytest.raises(ValueError, match="has no multi-scale"):
        accelerate(nn.Sequential(Attention()))


def test_a_name_that_is_nowhere_is_not_taken_for_the_operator() -> None:
    class Attention(nn.Module):
        def forward(self, value: Tensor) -> Tensor:
            return multi_scale_deformable_attention_v2(value)

    with pytest.raises(ValueError, match="has no multi-scale"):
        accelerate(nn.Sequential(Attention()))


def test_as_many_points_as_each_level_likes_are_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    sample = operators.sample
    monkeypatch.setattr(operators, "sample", lambda *a: calls.append(a) or sample(*a))
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, 24, 3, 4, generator=generator, dtype=torch.float64)
    locations = torch.rand(2, 5, 3, 9, 2, generator=generator, dtype=torch.float64)
    weights = torch.rand(2, 5, 3, 9, generator=generator, dtype=torch.float64)
    shapes, points = [(4, 4), (2, 3), (1, 2)], [3, 5, 1]
    leaves = [x.requires_grad_() for x in (value, locations, weights)]
    ours = operators.sample_ragged(value, shapes, locations, weights, points)
    theirs = modeling_d_fine.multi_scale_deformable_attention_v2(
        value, shapes, locations, weights, points
    )
    assert len(calls) == 1
    torch.testing.assert_close(ours, theirs)
    direction = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(ours, leaves, direction), torch.autograd.grad(theirs, leaves, direction)
    )
