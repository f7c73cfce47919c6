"""Threads, forks, data loader workers and caches, for both forms."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import saccade
from saccade.ops import ms_deform_attn_gradients

from .forms import FORMS, assert_same, call, every_form, random_case, results, upstream_of

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
# Python 3.12 warns of every fork of a process that has threads.
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def large_case(form):
    """More than is calculated in the caller's thread alone."""
    return random_case(form, ((20, 30), (10, 15)), queries=900, heads=4, channels=32)


@every_form
def test_bitwise_the_same_for_any_number_of_threads(form, restore_threads):
    case = large_case(form)
    torch.set_num_threads(1)
    expected = results(case, "cpu")
    for threads in (2, 3, 7):
        torch.set_num_threads(threads)
        assert_same(results(case, "cpu"), expected)


@every_form
def test_gradients_are_bitwise_the_same_when_samples_collide(form, restore_threads):
    # All queries sample the same few tokens: any race over the gradient of the value shows.
    case = random_case(form, ((2, 2), (1, 2)), queries=2000, heads=3, channels=4)
    torch.set_num_threads(1)
    expected = results(case, "cpu")
    for threads in (2, 3, 7, 7):
        torch.set_num_threads(threads)
        assert_same(results(case, "cpu"), expected)


def test_callers_of_all_forms_at_the_same_time(restore_threads):
    torch.set_num_threads(2)
    cases = [large_case(form) for form in FORMS]
    expected = [results(case, "cpu") for case in cases]
    together = threading.Barrier(6, timeout=60)
    same = []

    def work(case, expected):
        together.wait()
        for _ in range(2):
            ours = results(case, "cpu")
            same.append(all(torch.equal(ours[name], expected[name]) for name in expected))

    callers = [
        threading.Thread(target=work, args=pair)
        for pair in [*zip(cases, expected, strict=True)] * 2
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert same == [True] * 12


def run_in_fork(function, *arguments):
    """The result of ``function`` in a forked child."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def work():
        # PyTorch's own parallel loops hang in a forked child, so none of them may run there:
        # neither filling new memory nor torch.equal.
        torch.use_deterministic_algorithms(False)
        send.send(function(*arguments))

    child = context.Process(target=work)
    child.start()
    send.close()
    try:
        assert receive.poll(30), "the child hangs"
        return receive.recv()
    finally:
        child.kill()
        child.join()


def threads_after(case, expected):
    """Python's threads before any call, after one for a single thread, after one for two."""
    counts, same = [threading.active_count()], []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        same.append(bool((call(case, "cpu").numpy() == expected).all()))
        counts.append(threading.active_count())
    return counts, same


@needs_fork
@forks
@every_form
def test_follows_the_number_of_threads_in_a_fork_of_a_process_that_has_some(form, restore_threads):
    torch.set_num_threads(2)
    case = large_case(form)
    expected = call(case, "cpu").numpy()
    counts, same = run_in_fork(threads_after, case, expected)
    assert counts == [1, 1, 2]
    assert same == [True, True]


@needs_fork
@forks
def test_forks_while_another_thread_is_calling(restore_threads):
    torch.set_num_threads(2)
    case = large_case("fused")
    expected = call(case, "cpu").numpy()
    busy, done = threading.Event(), threading.Event()

    def work():
        while not done.is_set():
            call(case, "cpu")
            busy.set()

    caller = threading.Thread(target=work)
    caller.start()
    try:
        assert busy.wait(60)
        for _ in range(3):
            _, same = run_in_fork(threads_after, case, expected)
            assert same == [True, True]
    finally:
        done.set()
        caller.join()


class Attended(Dataset):
    """Item i is the output of form i and, where it can be had without autograd, its gradients.

    PyTorch's engine refuses to work in a fork of a process that has used a GPU, even a fake one.
    """

    def __len__(self):
        return len(FORMS)

    def __getitem__(self, index):
        case = random_case(FORMS[index])
        found = [call(case, "cpu")]
        if FORMS[index] == "plain":
            found += ms_deform_attn_gradients(upstream_of(found[0]), *case, backend="cpu")
        return torch.cat([x.flatten() for x in found])


@pytest.mark.parametrize("start", [pytest.param("fork", marks=[needs_fork, forks]), "spawn"])
def test_a_data_loader_worker_calls_it(start, restore_threads):
    torch.set_num_threads(2)
    results(large_case("fused"), "cpu")  # the parent has threads and has used them
    dataset = Attended()
    loader = DataLoader(
        dataset, batch_size=None, num_workers=1, multiprocessing_context=start, timeout=120
    )
    for ours, expected in zip(loader, dataset, strict=True):
        assert torch.equal(ours, expected)


FIRST_CALLS = """
import sys, threading, time, warnings
warnings.simplefilter("error")
import torch
import saccade
from saccade.ops import ms_deform_attn, ms_deform_attn_fused

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
