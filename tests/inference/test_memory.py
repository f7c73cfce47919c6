import ctypes
import subprocess
import sys
from collections.abc import Callable

import pytest

from saccade.inference import memory

SCRIPT = """
import resource, runpy, sys
keep = runpy.run_path(sys.argv[1])["keep_freed_memory"]
told = keep() if sys.argv[2] == "keep" else True
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(b"x") * (64 * 2**20)
before = faults()
for _ in range(8):
    bytearray(b"x") * (64 * 2**20)
print(told, faults() - before)
"""


def pages_asked_for(mode: str) -> int:
    """How many pages a process of its own is handed for memory that it has had before."""
    command = [sys.executable, "-c", SCRIPT, memory.__file__, mode]
    told, faults = subprocess.run(
        command, capture_output=True, check=True, text=True
    ).stdout.split()
    assert told == "True"
    return int(faults)


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"),
    reason="only glibc can be told",
)
def test_memory_that_is_wanted_again_is_not_handed_out_anew() -> None:
    assert pages_asked_for("keep") < pages_asked_for("give back") / 4


class Told:
    """A C library that takes numbers up to a limit, as glibc did before 2.35."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.values: dict[int, int] = {}

    def mallopt(self, parameter: int, value: int) -> int:
        if parameter == -3 and value > self.most:
            return 0
        self.values[parameter] = value
        return 1


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    def use(stand_in: object) -> None:
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(ctypes, "CDLL", lambda name: stand_in)

    return use


def test_an_older_library_keeps_what_it_can(library: Callable[[object], None]) -> None:
    old = Told(2**25)
    library(old)
    assert memory.keep_freed_memory()
    assert old.values == {-3: 2**25, -1: 2**30}


def test_other_libraries_are_left_alone(
    library: Callable[[object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    library(object())
    assert not memory.keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("there is none"))
    assert not memory.keep_freed_memory()
