"""Jobs on all cores."""

import gc
import os
from collections.abc import Callable
from functools import partial

import pytest

from lrd.config import parallel


def _fail(number: int) -> int:
    raise ValueError(f"job {number}")


@pytest.mark.parametrize("cores", [1, 3])
def test_results_come_in_order_and_an_error_is_raised(monkeypatch: pytest.MonkeyPatch, cores: int):
    monkeypatch.setattr(parallel, "_usable_cores", lambda: cores)
    seen = [1000]
    jobs: list[Callable[[], int]] = [partial(sum, (seen[0], n)) for n in range(20)]
    assert parallel.run_jobs(jobs) == list(range(1000, 1020))
    assert parallel.run_jobs([]) == []
    with pytest.raises(ValueError, match="job 7"):
        parallel.run_jobs([*jobs, partial(_fail, 7)])


def test_several_processes_work_where_there_are_cores(monkeypatch: pytest.MonkeyPatch):
    """They see what is in memory: nothing but results is sent."""
    monkeypatch.setattr(parallel, "_usable_cores", lambda: 2)
    unpicklable = lambda: os.getpid()  # noqa: E731
    assert os.getpid() not in parallel.run_jobs([unpicklable] * 4)


@pytest.mark.parametrize("cores", [1, 2])
def test_something_else_runs_meanwhile_in_this_process(monkeypatch: pytest.MonkeyPatch, cores: int):
    monkeypatch.setattr(parallel, "_usable_cores", lambda: cores)
    seen: list[int] = []
    assert parallel.run_jobs([int, int], lambda: seen.append(os.getpid())) == [0, 0]
    assert seen == [os.getpid()]


def test_garbage_is_kept_meanwhile_alone():
    assert gc.isenabled()
    with parallel.garbage_kept():
        assert not gc.isenabled()
        with parallel.garbage_kept():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
