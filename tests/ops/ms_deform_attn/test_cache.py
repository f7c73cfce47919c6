"""Kernels are read from numba's cache if that works; if it does not, they are compiled."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy
import pytest

import saccade
from saccade.ops.ms_deform_attn import cpu_compile

SIGNATURE = "void(f8[::1])"


def fill(numbers):
    numbers[:] = 3


def assert_it_compiles():
    numbers = numpy.zeros(2)
    cpu_compile.compiled(fill, SIGNATURE)(numbers)
    assert numbers.tolist() == [3, 3]


def assert_numba_alone_fails(error=Exception):
    with pytest.raises(error):
        numba.njit(SIGNATURE, cache=True)(fill)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def refuse(*arguments):
    raise OSError("no space left on device")


def test_no_folder_to_cache_in(monkeypatch):
    monkeypatch.setattr(numba.core.caching._CacheLocator, "ensure_cache_path", refuse)
    assert_numba_alone_fails(RuntimeError)
    assert_it_compiles()


def test_a_folder_that_cannot_be_filled(cache, monkeypatch):
    monkeypatch.setattr(os, "replace", refuse)
    assert_numba_alone_fails(OSError)
    assert_it_compiles()
    assert not [*cache.rglob("*.nbc")]


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_a_file_that_was_cut_off(cache, suffix, share):
    assert_it_compiles()
    (file,) = cache.rglob(f"*{suffix}")
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    assert_numba_alone_fails()
    assert_it_compiles()


def test_a_change_of_shared_code_changes_what_the_cache_is_looked_up_by(monkeypatch):
    before = cpu_compile.sources()
    assert cpu_compile.sources() == before
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"changed")
    assert cpu_compile.sources.__wrapped__() != before


FIRST_CALLS = """
import sys, threading, time, warnings
warnings.simplefilter("error")
import torch
import saccade
from saccade.ops import ms_deform_attn, ms_deform_attn_fused

assert "numba" not in sys.modules  # it takes a while, and not all users need it
assert saccade.__file__.startswith(sys.argv[1]), saccade.__file__
place, one = torch.full((1, 1, 1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 1, 1)
arguments = {
    ms_deform_attn: (place, one),
    ms_deform_attn_fused: (torch.full((1, 1, 1, 2), 0.5), torch.zeros(1, 1, 1, 1, 2), one[0]),
}
outputs = []

def work(function, rest):
    value = torch.ones(1, 4, 1, 3, requires_grad=True)
    out = function(value, [(2, 2)], *rest)
    out.sum().backward()
    outputs.append((out.tolist(), value.grad.sum().item()))

# The very first calls come from several threads at once.
callers = [threading.Thread(target=work, args=pair) for pair in [*arguments.items()] * 2]
started = time.perf_counter()
for caller in callers:
    caller.start()
for caller in callers:
    caller.join()
print(f"first calls: {time.perf_counter() - started:.1f} s")
assert outputs == [([[[1, 1, 1]]], 3)] * 4, outputs
"""


def make_first_calls(package_root, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FIRST_CALLS, str(package_root)],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        cwd=package_root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
    return done.stdout


@pytest.mark.slow
def test_no_folder_at_all_to_cache_in_breaks_nothing(tmp_path):
    home = Path(saccade.__file__).parent
    shutil.copytree(home, tmp_path / "saccade", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [tmp_path / "saccade", *(tmp_path / "saccade").rglob("*")]:
        # Permissions do not stop root, a file where a folder should be does.
        if folder.is_dir():
            (folder / "__pycache__").touch()
    nowhere = str(tmp_path / "saccade" / "__pycache__" / "below")
    places = {"HOME": nowhere, "XDG_CACHE_HOME": nowhere, "NUMBA_CACHE_DIR": nowhere}
    make_first_calls(tmp_path, PYTHONPATH=str(tmp_path), **places)


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_later_processes_find_every_kernel_of_the_first(tmp_path):
    root = Path(saccade.__file__).parents[1]
    make_first_calls(root, NUMBA_CACHE_DIR=str(tmp_path))
    compiled = contents(tmp_path)
    assert compiled
    print(make_first_calls(root, NUMBA_CACHE_DIR=str(tmp_path)))
    assert contents(tmp_path) == compiled
