"""Threads, forks and data loader workers, for all forms."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numba
import pytest
import torch
from numba.core.compiler_lock import global_compiler_lock
from torch.utils.data import DataLoader, Dataset

from saccade.ops import ms_deform_attn_gradients

from .forms import FORMS, assert_same, call, every_form, random_case, results, upstream_of

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows cannot fork")
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


def compile_something():
    return numba.njit("f8(f8)")(lambda x: x + 1)(2.0)


@needs_fork
@forks
def test_forks_while_another_thread_is_compiling():
    call(random_case("plain"), "cpu")  # from then on, compilers and forks wait for each other
    compiling = threading.Event()

    def work():
        with global_compiler_lock:
            compiling.set()
            time.sleep(0.3)

    compiler = threading.Thread(target=work)
    compiler.start()
    assert compiling.wait(60)
    assert run_in_fork(compile_something) == 3
    compiler.join()


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


LAST_CALLS = """
import threading
import torch
from tests.ops.ms_deform_attn.forms import call, random_case

torch.set_num_threads(2)
# More than is calculated in the caller's thread alone.
case = random_case("plain", ((20, 30), (10, 15)), queries=4000, channels=4)
main = threading.current_thread()

def work():
    main.join()
    print("called", call(case, "cpu").shape)

threading.Thread(target=work).start()
"""


def test_a_thread_that_outlives_the_main_one_can_still_call_it():
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", LAST_CALLS], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0
    assert done.stdout == "called torch.Size([2, 4000, 8])\n", done.stderr
