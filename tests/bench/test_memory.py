import sys

import pytest
import torch

from saccade.bench import memory
from saccade.bench.contenders import of_backend
from saccade.bench.op_cases import OpCase, OpShape

CPU = torch.device("cpu")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets a process's peak")


@LINUX
def test_the_peak_counts_what_was_freed_again() -> None:
    def run() -> None:
        torch.ones(48 * 2**20, dtype=torch.uint8)
        torch.ones(64 * 2**20, dtype=torch.uint8)

    for _ in range(2):
        peak = memory._resident_peak(run)
        assert 60 * 2**20 < peak < 80 * 2**20


@LINUX
def test_grid_sample_needs_more_than_a_forward_should(tmp_path) -> None:
    shape = OpShape(levels=((64, 64),), num_heads=8, num_channels=32)
    case = OpCase("small", shape, "local")
    found = memory.measure_memory(case, [], torch.float32, CPU, lambda step: None)
    out = 4096 * 256 * 4
    assert found.forward_bar == out
    assert found.forward_backward_bar == 2 * out + 4096 * 8 * 4 * 3 * 4
    (baseline,) = found.results
    assert baseline.contender == "grid_sample"
    # Its samples before they are summed: four times the output.
    assert 4 * out < baseline.forward < 20 * out
    assert baseline.forward_backward > baseline.forward


def test_systems_that_do_not_tell_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(memory, "_RESET", tmp_path / "missing")
    case = OpCase("small", OpShape(levels=((2, 2),)), "local")
    with pytest.raises(ValueError, match="--memory cannot measure a CPU's memory on"):
        memory.measure_memory(case, of_backend("cpu"), torch.float32, CPU, lambda step: None)


@LINUX
def test_what_fails_in_its_own_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    case = OpCase("small", OpShape(levels=((2, 2),)), "local")
    with pytest.raises(ValueError, match="grid_sample failed in a process of its own: no message"):
        memory.measure_memory(case, [], torch.float32, CPU, lambda step: None)
