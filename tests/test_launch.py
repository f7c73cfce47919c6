"""How processes find each other, and whose status counts."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from torch.distributed import HashStore

from saccade.launch import EndedElsewhere, agree, ending_together, exit_status, is_restart
from saccade.run_config import LaunchConfig


def test_processes_of_an_attempt_agree_on_a_name_whatever_earlier_ones_left() -> None:
    store = HashStore()
    names = []
    for count in (3, 2, 3):
        with ThreadPoolExecutor(count) as pool:
            # The first process comes last, when the others have seen what is left of the proposal.
            ranks = reversed(range(count))
            found = list(pool.map(partial(agree, store, world_size=count), ranks))
        assert len(set(found)) == 1
        names.append(found[0])
    assert len(set(names)) == 3


def test_only_one_process_that_fabric_started_has_a_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert exit_status(143) == 143
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert exit_status(143) == 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert exit_status(143) == 143


def test_a_process_that_trains_alone_raises_what_it_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), ending_together(tmp_path):
        raise ValueError("mine")


def test_restarts_are_those_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    assert not is_restart()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert not is_restart()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert is_restart()


def test_the_end_of_another_process_is_told_as_such() -> None:
    error = EndedElsewhere(143)
    assert str(error) == "another process of this run ended first; its message says why."
    assert error.status == 143


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(ValueError, match='strategy is "zero": expected auto, ddp or fsdp'):
        LaunchConfig(strategy="zero")  # type: ignore[arg-type]


def test_float16_is_refused_where_weights_are_divided() -> None:
    with pytest.raises(ValueError, match="divided train with bf16 or 32; choose one of these"):
        LaunchConfig(strategy="fsdp", precision="fp16")
