"""Which turns are replayed from CUDA graphs; no GPU is asked."""

import pytest
import torch

from saccade.bench import measure
from saccade.bench.contenders import of_backend

CUDA = torch.device("cuda")


def waiting(copy: int) -> None:
    """Stands for what no graph can hold."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether a graph was asked for, each time."""
    asked: list[bool] = []

    def cuda_turn(call, num_copies: int, graph: bool):
        asked.append(graph)
        if graph and call is waiting:
            raise RuntimeError("operation not permitted when stream is capturing")
        return lambda: 1.0

    monkeypatch.setattr(measure, "cuda_turn", cuda_turn)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return asked


def test_a_graph_is_replayed_where_it_can_be(asked: list[bool]) -> None:
    _, graph = measure._turn(print, 2, CUDA, graphable=True)
    assert graph
    assert asked == [True]


def test_what_cannot_be_captured_is_timed_without_a_graph(asked: list[bool]) -> None:
    turn, graph = measure._turn(waiting, 2, CUDA, graphable=True)
    assert not graph
    assert turn() == 1
    assert asked == [True, False]


def test_large_shapes_are_timed_without_a_graph(asked: list[bool]) -> None:
    _, graph = measure._turn(print, 2, CUDA, graphable=False)
    assert not graph
    assert asked == [False]


def test_only_the_reference_waits_for_the_gpu() -> None:
    assert [contender.waits for contender in of_backend("reference")] == [True]
    assert not any(contender.waits for contender in of_backend("triton"))


def test_a_fused_form_names_whom_it_is_compared_with() -> None:
    for backend in ("cpu", "triton"):
        names = {contender.name: contender.unfused for contender in of_backend(backend)}
        assert names.pop(f"{backend} fused") == f"{backend} unfused"
        assert f"{backend} unfused" in names
        assert set(names.values()) == {None}


def test_determinism_is_measured_on_a_gpu_only() -> None:
    names = [contender.name for contender in of_backend("triton")]
    assert names == ["triton", "triton deterministic", "triton unfused", "triton fused"]
    assert not any(contender.deterministic for contender in of_backend("cpu"))
