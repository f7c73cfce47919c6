import pytest
import torch

from saccade.bench.op_cases import (
    SHAPES,
    OpCase,
    OpShape,
    build_inputs,
    default_cases,
    named_cases,
)
from saccade.ops import ms_deform_attn_fused_reference, ms_deform_attn_reference

CPU = torch.device("cpu")
SMALL = OpShape(levels=((40, 60), (20, 30)), num_heads=3, num_channels=5, num_points=2)
BOXED = OpShape(levels=((40, 60), (20, 30)), num_queries=70, num_heads=3, boxed=True)


def pixels(shape: OpShape, sampling, dtype=torch.float32):
    """Coordinates in tokens of the level, from the middle of its first token."""
    inputs = build_inputs(OpCase("small", shape, sampling), dtype, CPU)
    extents = torch.tensor([(width, height) for height, width in shape.levels])[:, None]
    return inputs["sampling_locations"] * extents - 0.5


def test_the_canonical_encoder_has_a_query_at_each_of_17821_tokens() -> None:
    shape = SHAPES["encoder"]
    assert shape.num_tokens == shape.queries == 17821
    assert shape.num_samples == 17821 * 8 * 4 * 4
    assert SHAPES["large-encoder-b2"].num_tokens == 22223


def test_a_decoder_has_the_queries_it_is_given() -> None:
    inputs = build_inputs(OpCase("small", BOXED, "local"), torch.float32, CPU)
    assert inputs["sampling_locations"].shape == (1, 70, 3, 2, 4, 2)
    assert inputs["reference_points"].shape == (1, 70, 1, 4)
    assert inputs["grad_out"].shape == (1, 70, 3 * 32)


@pytest.mark.parametrize("level", [0, 1])
def test_local_samples_of_an_encoder_stay_near_their_query(level: int) -> None:
    shape = OpShape(levels=((40, 60), (20, 30)), num_heads=3, num_points=2)
    sampled = pixels(shape, "local")[0]
    first = 40 * 60 * level
    height, width = shape.levels[level]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    own = torch.stack([columns, rows], -1).flatten(0, 1)[:, None, None]
    distances = (sampled[first : first + height * width, :, level] - own).abs()
    assert distances.mean() < 2
    assert distances.max() < 8


def test_uniform_samples_fall_anywhere_on_the_map() -> None:
    sampled = pixels(SMALL, "uniform")[0, :, :, 0]
    assert sampled[..., 0].min() < 0
    assert sampled[..., 0].max() > 59
    assert (sampled[..., 0].std() / 60 - 12**-0.5).abs() < 0.01


@pytest.mark.parametrize("sampling", ["local", "uniform"])
@pytest.mark.parametrize("shape", [SMALL, BOXED])
def test_no_sample_lies_where_slopes_jump(shape: OpShape, sampling) -> None:
    sampled = pixels(shape, sampling)
    assert (sampled - sampled.round()).abs().min() > 0.009


@pytest.mark.parametrize("shape", [SMALL, BOXED])
def test_both_forms_are_given_the_same_task(shape: OpShape) -> None:
    inputs = build_inputs(OpCase("small", shape, "local"), torch.float64, CPU)
    plain = ms_deform_attn_reference(
        inputs["value"],
        shape.levels,
        inputs["sampling_locations"].double(),
        inputs["attention_weights"].double(),
    )
    fused = ms_deform_attn_fused_reference(
        inputs["value"],
        shape.levels,
        inputs["reference_points"],
        inputs["sampling_offsets"],
        inputs["attention_logits"],
        [shape.num_points] * 2,
    )
    torch.testing.assert_close(plain, fused, rtol=1e-4, atol=1e-4)


def test_inputs_are_always_the_same_and_locations_never_in_half_precision() -> None:
    case = OpCase("small", SMALL, "local")
    first, second = (build_inputs(case, torch.bfloat16, CPU) for _ in range(2))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name])
    halves = {name for name, tensor in first.items() if tensor.dtype == torch.bfloat16}
    assert halves == {"value", "grad_out", "sampling_offsets", "attention_logits"}


def test_default_cases_are_sampled_locally_and_the_main_ones_uniformly_too() -> None:
    cases = default_cases("cpu")
    assert {case.name for case in cases if case.sampling == "uniform"} == {"encoder", "decoder"}
    assert {case.name for case in cases} <= set(SHAPES)
    assert len(default_cases("cuda")) > 4


def test_an_unknown_shape_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match='no shape "encodr": expected some of encoder, '):
        named_cases(["encodr"], ["local"])


def test_a_shape_without_size_is_refused() -> None:
    with pytest.raises(ValueError, match="expected sizes of at least 1"):
        OpShape(levels=((0, 3),))
