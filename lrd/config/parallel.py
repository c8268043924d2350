"""Independent jobs on all cores."""

import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, TypeVar

Result = TypeVar("Result")
_jobs: Sequence[Callable[[], Any]] = ()  # of the forked processes


def run_jobs(
    jobs: Sequence[Callable[[], Result]], meanwhile: Callable[[], object] = lambda: None
) -> list[Result]:
    """Return the results of jobs, in their order. The longest ones should come first.

    On Linux processes are forked: they have all that is loaded, and send their results alone, which
    must pickle. They do not live long enough to collect garbage. Elsewhere the jobs run in turn.
    ``meanwhile`` runs in this process. Raises what a job raises.
    """
    global _jobs
    n = min(len(jobs), _usable_cores())
    if n < 2:
        meanwhile()
        return [job() for job in jobs]
    _jobs = jobs
    try:
        with warnings.catch_warnings():
            # Python 3.12 on warns of threads that hold locks; those of numpy's BLAS are idle.
            warnings.simplefilter("ignore", DeprecationWarning)
            with ProcessPoolExecutor(n, get_context("fork"), gc.disable) as pool:
                results = pool.map(_run, range(len(jobs)))  # forks here
                meanwhile()
                return list(results)
    finally:
        _jobs = ()


@contextmanager
def garbage_kept() -> Iterator[None]:
    """Collect no garbage meanwhile: a fifth of the time of a command that makes many objects."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def _run(number: int) -> Any:
    return _jobs[number]()
