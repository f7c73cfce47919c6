import threading

import pytest

from saccade.ops.ms_deform_attn.threads import run_tasks


@pytest.mark.parametrize("num_threads", [1, 2, 7])
def test_every_task_runs_once(num_threads):
    done = []
    run_tasks((lambda i=i: done.append(i) for i in range(100)), num_threads)
    assert sorted(done) == list(range(100))


def test_tasks_run_at_the_same_time():
    meeting = threading.Barrier(2, timeout=10)
    run_tasks([meeting.wait, meeting.wait], 2)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_an_error_reaches_the_caller(num_threads):
    def fail():
        raise ArithmeticError("seven")

    with pytest.raises(ArithmeticError, match="seven"):
        run_tasks([fail] * 5, num_threads)


def test_callers_within_tasks_do_not_wait_for_each_other():
    done = []

    def outer():
        run_tasks([lambda: done.append(1)] * 5, 4)

    run_tasks([outer] * 20, 4)
    assert len(done) == 100
