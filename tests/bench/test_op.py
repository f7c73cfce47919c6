"""The command from end to end, on shapes so small that only its workings are measured."""

import json
from pathlib import Path

import pytest
import torch

from saccade.bench import measure
from saccade.cli import main

SIZES = ["--levels", "6x8", "3x4", "--queries", "5", "--heads", "2", "--points", "2"]
TINY = [*SIZES, "--rounds", "2", "--device", "cpu"]


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def run(*options: str) -> tuple[str, dict]:
        file = tmp_path / "new" / "op.json"
        assert main(["bench", "op", *TINY, *options, "--json", str(file)]) == 0
        return capsys.readouterr().out, json.loads(file.read_text("utf-8"))

    return run


def test_our_backend_is_measured_beside_grid_sample(bench) -> None:
    text, record = bench("--backends", "cpu", "--sampling", "local")
    for row in ("grid_sample", "cpu", "cpu unfused", "cpu fused", "forward + backward", "of floor"):
        assert row in text
    assert max(map(len, text.splitlines())) <= 80
    (case,) = record["cases"]
    assert case["case"]["sampling"] == "local"
    assert case["case"]["shape"]["levels"] == [[6, 8], [3, 4]]
    assert list(case["speeds"]) == ["forward", "forward + backward"]
    names = ["grid_sample", "cpu", "cpu unfused", "cpu fused"]
    assert [result["contender"] for result in case["results"]] == 2 * names
    for result in case["results"]:
        assert result["problem"] is None
        assert len(result["seconds"]) == 2
        assert result["time"]["low"] <= result["time"]["median"] <= result["time"]["high"]
        assert result["floor_share"] > 0
        assert (result["speedup"] is None) == (result["contender"] == "grid_sample")
        assert (result["fused_speedup"] is None) == (result["contender"] != "cpu fused")


def test_figures_come_with_the_machine_the_versions_and_the_command(bench) -> None:
    _, record = bench("--backends", "reference", "--threads", "1", "--sampling", "uniform")
    assert record["command"].startswith("saccade bench op --levels 6x8 3x4 ")
    assert record["machine"]["threads"] == 1
    assert record["machine"]["processor"]
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert record["versions"]["saccade"]


def test_threads_are_given_back(bench) -> None:
    before = torch.get_num_threads()
    bench("--backends", "reference", "--threads", str(before + 1), "--sampling", "local")
    assert torch.get_num_threads() == before


def test_without_sampling_both_are_measured(bench) -> None:
    _, record = bench("--backends", "reference", "--dtype", "bfloat16")
    assert [case["case"]["sampling"] for case in record["cases"]] == ["local", "uniform"]
    assert {case["dtype"] for case in record["cases"]} == {"bfloat16"}


def test_no_speed_is_told_of_what_is_wrong(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from saccade.bench import contenders

    right = contenders.ms_deform_attn
    monkeypatch.setattr(contenders, "ms_deform_attn", lambda *a, **k: 1.1 * right(*a, **k))
    text, record = bench("--backends", "reference", "--sampling", "local")
    assert "reference, forward: no figure, wrong output: differs by 1e-01 of its norm" in text
    results = record["cases"][0]["results"]
    assert [result["seconds"] for result in results if result["contender"] == "reference"] == [
        [],
        [],
    ]


def test_memory_is_measured_instead_of_time(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from saccade.bench import memory

    monkeypatch.setattr(memory, "_in_process_of_its_own", lambda *a: (3_000_000, 5_000_000))
    text, record = bench("--backends", "reference", "--sampling", "local", "--memory")
    assert "3.00 MB" in text
    assert "wanted at most" in text
    assert record["cases"][0]["results"][0] == {
        "contender": "grid_sample",
        "forward": 3_000_000,
        "forward_backward": 5_000_000,
    }


def test_figures_of_finished_cases_survive_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    take_turns = measure.take_turns

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return take_turns(*arguments)

    monkeypatch.setattr(measure, "take_turns", interrupted)
    file = tmp_path / "op.json"
    assert main(["bench", "op", *TINY, "--backends", "reference", "--json", str(file)]) == 130
    assert len(json.loads(file.read_text())["cases"]) == 1


def test_figures_go_to_a_free_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["bench", "op", *TINY, "--backends", "reference", "--sampling", "local"]) == 0
    assert (tmp_path / "runs" / "bench" / "op.json").is_file()
    assert (tmp_path / "runs" / "bench-2" / "op.json").is_file()
