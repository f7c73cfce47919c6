"""Accelerated models of transformers against the same models as they were."""

import re
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from saccade.compat import accelerate

from .comparing import assert_equal, run
from .models import ARCHITECTURES, NUM_OPERATORS, build, inputs

TWO_STAGE = {"two_stage": True, "with_box_refine": True, "two_stage_num_proposals": 7}
CASES = {
    **{architecture: (architecture, {}) for architecture in ARCHITECTURES},
    "deformable_detr-two-stage": ("deformable_detr", TWO_STAGE),
    "d_fine-even-points": ("d_fine", {"decoder_n_points": 4}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_accelerated_models_return_and_learn_the_same(
    case: str, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture, changes = CASES[case]
    model = build(architecture, **changes).to(dtype)
    given = inputs(architecture, dtype)
    keys = list(model.state_dict())
    theirs = run(model, given)
    num_operators = NUM_OPERATORS.get(architecture, 2)
    fed = [name for name in theirs[1] if name.endswith("sampling_offsets.weight")]
    assert len(fed) == num_operators

    acceleration = accelerate(model)
    assert (acceleration.replaced, acceleration.left) == (num_operators, {})
    assert list(model.state_dict()) == keys
    with monkeypatch.context() as patch:
        patch.setattr(nn.functional, "grid_sample", None)
        ours = run(model, given)
    assert_equal(ours, theirs, tolerance)

    acceleration.undo()
    for again, before in zip(run(model, given), theirs, strict=True):
        assert again.keys() == before.keys()
        assert all(torch.equal(again[name], before[name]) for name in before)


def test_every_architecture_that_carries_the_operator_is_tested() -> None:
    models = Path(transformers.__file__).parent / "models"
    carriers = {
        file.parent.name
        for file in models.glob("*/modeling_*.py")
        if re.search(r"def multi_scale_deformable|class MultiScaleDeformable", file.read_text())
    }
    assert carriers == set(ARCHITECTURES)


@pytest.mark.parametrize("architecture", ["deformable_detr", "d_fine"])
def test_autocast_changes_an_accelerated_model_as_it_changes_the_model(architecture: str) -> None:
    model = build(architecture)
    given = inputs(architecture)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        theirs = model(**given).logits
        with accelerate(model):
            ours = model(**given).logits
    exact = model(**given).logits
    assert ours.dtype == theirs.dtype
    assert (ours - exact).norm() <= 2 * (theirs - exact).norm()


@pytest.mark.parametrize("inlined", [True, False])
def test_accelerated_modules_compile_whole_and_follow_undo(
    inlined: bool, unchecked_shapes: None
) -> None:
    layer = build("mask2former").model.pixel_level_module.decoder.encoder.layers[0]
    shapes = [(8, 8), (4, 4), (2, 2)]
    hidden = torch.randn(2, 84, 64)
    given = {
        "hidden_states": hidden,
        "attention_mask": torch.zeros(2, 84, dtype=torch.bool),
        "position_embeddings": torch.randn(2, 84, 64),
        "reference_points": torch.rand(2, 84, 3, 2),
        "spatial_shapes_list": shapes,
        "level_start_index": torch.tensor([0, 64, 80]),
    }
    module = layer if inlined else layer.self_attn
    if not inlined:
        given["encoder_hidden_states"] = hidden
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    theirs = module(**given)[0]
    with accelerate(layer):
        ours = module(**given)[0]
        torch.testing.assert_close(compiled(**given)[0], ours, rtol=0, atol=0)
    torch.testing.assert_close(compiled(**given)[0], theirs, rtol=0, atol=0)
    torch.testing.assert_close(ours, theirs)


def test_a_function_kept_as_an_attribute_compiles_whole(unchecked_shapes: None) -> None:
    attention = build("d_fine").model.decoder.layers[0].encoder_attn
    given = {
        "hidden_states": torch.randn(2, 7, 64),
        "encoder_hidden_states": torch.randn(2, 84, 64),
        "reference_points": torch.rand(2, 7, 1, 4),
        "spatial_shapes": torch.tensor([(8, 8), (4, 4), (2, 2)]),
        "spatial_shapes_list": [(8, 8), (4, 4), (2, 2)],
    }
    compiled = torch.compile(attention, backend="eager", fullgraph=True)
    theirs = attention(**given)[0]
    with accelerate(attention):
        ours = attention(**given)[0]
        torch.testing.assert_close(compiled(**given)[0], ours, rtol=0, atol=0)
    torch.testing.assert_close(compiled(**given)[0], theirs, rtol=0, atol=0)
    torch.testing.assert_close(ours, theirs)
