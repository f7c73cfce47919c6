import pytest
import torch

from saccade.bench import floors
from saccade.bench.contenders import LOCATIONS, OFFSETS
from saccade.bench.floors import Speeds, count_touched_rows, floor, measure_speeds, moved_bytes
from saccade.bench.op_cases import OpCase, OpShape, build_inputs

CPU = torch.device("cpu")
SHAPE = OpShape(levels=((6, 5),), num_queries=2, num_heads=2, num_channels=4, num_points=3)


def inputs_of(shape: OpShape, sampling="local", dtype=torch.float32):
    return build_inputs(OpCase("small", shape, sampling), dtype, CPU)


def test_touched_rows_are_those_whose_value_changes_the_output() -> None:
    from saccade.bench.contenders import BASELINE

    inputs = inputs_of(SHAPE)
    _, (grad_value, *_) = BASELINE.forward_backward(SHAPE.levels, inputs)
    assert count_touched_rows(SHAPE, inputs) == int((grad_value != 0).any(-1).sum())


def test_samples_outside_the_map_touch_nothing() -> None:
    inputs = inputs_of(SHAPE)
    inputs["sampling_locations"] = torch.full_like(inputs["sampling_locations"], 3.0)
    assert count_touched_rows(SHAPE, inputs) == 0


def test_uniform_samples_of_an_encoder_touch_almost_every_row() -> None:
    shape = OpShape(levels=((16, 16),), num_heads=2, num_channels=4)
    share = count_touched_rows(shape, inputs_of(shape, "uniform")) / (2 * 256)
    assert share > 0.99


def test_forward_moves_rows_samples_and_output_once() -> None:
    inputs = inputs_of(SHAPE)
    taken = {name: inputs[name] for name in LOCATIONS}
    samples, queries, heads = 2 * 2 * 3, 2, 2
    # Ten rows of four floats; x, y and weight of every sample; the output.
    assert moved_bytes(taken, inputs, False, 10) == 10 * 16 + samples * 12 + queries * heads * 16


def test_backward_reads_it_again_and_writes_every_gradient() -> None:
    inputs = inputs_of(SHAPE)
    taken = {name: inputs[name] for name in LOCATIONS}
    forward = moved_bytes(taken, inputs, False, 10)
    gradients = sum(tensor.nbytes for tensor in taken.values())
    assert moved_bytes(taken, inputs, True, 10) == 2 * forward + gradients


def test_references_receive_no_gradient() -> None:
    inputs = inputs_of(SHAPE)
    taken = {name: inputs[name] for name in OFFSETS}
    gradients = sum(t.nbytes for name, t in taken.items() if name != "reference_points")
    forward = moved_bytes(taken, inputs, False, 10)
    assert moved_bytes(taken, inputs, True, 10) == 2 * forward + gradients


def test_the_floor_is_the_higher_bound() -> None:
    inputs = inputs_of(SHAPE)
    for speeds, expected in (
        (Speeds(copy=1e3, rows=1e9), "memory_seconds"),
        (Speeds(copy=1e9, rows=1e3), "row_seconds"),
        (Speeds(copy=1e9, rows=None), "memory_seconds"),
    ):
        found = floor(SHAPE, inputs, LOCATIONS, 10, False, speeds)
        assert found.seconds == getattr(found, expected)
    # Four rows of four floats for each sample; and with gradients, twelve more.
    assert found.row_bytes == SHAPE.num_samples * 4 * 16
    both = floor(SHAPE, inputs, LOCATIONS, 10, True, speeds)
    assert both.row_bytes == SHAPE.num_samples * 16 * 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_machine_has_speeds_in_every_dtype(dtype: torch.dtype) -> None:
    speeds = measure_speeds(SHAPE, inputs_of(SHAPE, dtype=dtype), 10, backward=False)
    assert speeds.copy > 0
    assert speeds.rows is not None
    assert speeds.rows > 0


@pytest.mark.parametrize("backward", [False, True])
def test_the_copy_moves_what_the_plain_form_does_in_this_direction(
    backward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(floors, "_cpu_copy_speed", lambda count: asked.append(count) or 1.0)
    inputs = inputs_of(SHAPE)
    measure_speeds(SHAPE, inputs, 10, backward)
    assert asked == [moved_bytes({k: inputs[k] for k in LOCATIONS}, inputs, backward, 10)]
