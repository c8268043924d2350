"""Measure time and peak memory of variants that take turns, in this process or in their own.

In a round every variant has one turn (A B A B ...), so that a slow phase of the machine slows all
variants alike.
"""

import argparse
import gc
import json
import math
import multiprocessing
import os
import re
import statistics
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Work = Callable[[], object]
# The fork server imports these modules once, so that a child process starts at once.
_PRELOAD = ["torch", "torchvision", "torchmetrics", "hydra", "torch.optim.lr_scheduler"]


@dataclass(frozen=True)
class Options:
    """What the command line sets for every benchmark.

    Args:
        device: where the variants compute.
        threads: threads of torch in every process.
        rounds: turns of every variant; None takes each benchmark's default.
        quick: toy sizes, and no target is judged.
        large: on a CPU, also train ResNet-18.
        root: directory of the data sets.
        against: the commit whose LRDropout takes turns with today's, if one is given.
    """

    device: torch.device = torch.device("cpu")
    threads: int = 1
    rounds: int | None = None
    quick: bool = False
    large: bool = False
    root: str = "data"
    against: str | None = None

    @staticmethod
    def of(args: argparse.Namespace) -> "Options":
        """Return the options of a command line; set the number of torch's threads.

        Raises:
            ValueError: there is no GPU, or no such commit.
        """
        if args.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device must be cpu where torch finds no GPU, got cuda")
        if args.against is not None and args.section not in ("step", "all"):
            raise ValueError(f"--against must come with section step or all, got {args.section}")
        against = None if args.against is None else _short_commit(args.against)
        # With the toys' small tensors, several threads would only wait for each other.
        torch.set_num_threads(args.threads or (1 if args.quick else torch.get_num_threads()))
        device = torch.device("cuda", 0) if args.device == "cuda" else torch.device("cpu")
        threads = torch.get_num_threads()
        return Options(
            device, threads, args.rounds, args.quick, args.large, args.data, against=against
        )

    @property
    def turn_seconds(self) -> float:
        """The least duration of a turn, in seconds."""
        return 0.01 if self.quick else 0.2

    def rounds_or(self, default: int) -> int:
        """Return the number of rounds: the command line's, else 2 if quick, else ``default``."""
        return self.rounds or (2 if self.quick else default)


def _short_commit(commit: str) -> str:
    """Return the abbreviated hash of a commit; raise ValueError if this checkout has none."""
    command = ["git", "-C", str(Path(__file__).resolve().parents[2]), "rev-parse", "--verify"]
    command += ["--quiet", "--short", "--end-of-options", f"{commit}^{{commit}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise ValueError(f"--against needs git: {error}") from error
    if done.returncode:
        raise ValueError(f"--against must be a commit of this checkout, got {commit}")
    return done.stdout.strip()


@dataclass(frozen=True)
class Variant:
    """One way to do the work. ``before`` runs untimed before every repetition."""

    label: str
    work: Work
    before: Work | None = None


class Clock:
    """Seconds between :meth:`start` and :meth:`stop`."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now, self._started = now, 0.0

    def start(self) -> None:
        self._started = self._now()

    def stop(self) -> float:
        return self._now() - self._started


class CudaClock(Clock):
    """Seconds by events of the GPU, from an idle GPU to the end of the launched kernels."""

    def start(self) -> None:
        torch.cuda.synchronize()
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        self._events[0].record()

    def stop(self) -> float:
        self._events[1].record()
        self._events[1].synchronize()
        return self._events[0].elapsed_time(self._events[1]) / 1000


def clock_for(device: torch.device) -> Clock:
    """Return the clock that times work on ``device``."""
    return CudaClock() if device.type == "cuda" else Clock()


def time_variant(variant: Variant, repeats: int, clock: Clock) -> float:
    """Return the mean seconds of one repetition.

    Without ``before`` the repetitions run back to back, as the steps of a training run do.
    """
    if variant.before is None:
        clock.start()
        for _ in range(repeats):
            variant.work()
        return clock.stop() / repeats
    total = 0.0
    for _ in range(repeats):
        variant.before()
        clock.start()
        variant.work()
        total += clock.stop()
    return total / repeats


def interleave(
    variants: Sequence[Variant],
    rounds: int,
    clock: Clock,
    turn_seconds: float = 0.2,
    warmup: int = 3,
) -> dict[str, list[float]]:
    """Return the seconds of one repetition, by variant and round.

    Args:
        variants: what to time.
        rounds: turns of every variant.
        clock: what times a turn.
        turn_seconds: a turn has as many repetitions as take about this long.
        warmup: untimed repetitions before the first round, which also compile.
    """
    repeats = {}
    for variant in variants:
        for _ in range(warmup):
            time_variant(variant, 1, clock)
        once = time_variant(variant, 1, clock)
        repeats[variant.label] = min(max(1, math.ceil(turn_seconds / max(once, 1e-9))), 10_000)
    samples: dict[str, list[float]] = {variant.label: [] for variant in variants}
    for _ in range(rounds):
        for variant in variants:
            samples[variant.label].append(time_variant(variant, repeats[variant.label], clock))
    return samples


def pairwise_ratios(samples: Sequence[float], baseline: Sequence[float]) -> list[float]:
    """Return the ratio in every round, in which a slow phase of the machine cancels out."""
    return [a / b for a, b in zip(samples, baseline, strict=True)]


@dataclass(frozen=True)
class Quartiles:
    """Median, quartiles and minimum of some numbers."""

    median: float
    low: float
    high: float
    least: float

    @staticmethod
    def of(numbers: Sequence[float]) -> "Quartiles":
        """Return the quartiles of ``numbers``; all four are equal if there is one number."""
        if len(numbers) == 1:
            return Quartiles(*[numbers[0]] * 4)
        low, median, high = statistics.quantiles(numbers, n=4, method="inclusive")
        return Quartiles(median, low, high, min(numbers))


def count_tensor_bytes(work: Work, device: torch.device) -> tuple[int, int]:
    """Return the bytes of tensors that ``work`` allocates: (at most, after it).

    On the CPU torch's profiler counts every allocation, on CUDA the caching allocator does. Unlike
    resident memory the count is exact, and free of what compilers, imports and the allocation of
    pages leave behind. On the CPU ``work`` must not free tensors that no earlier call has counted.
    """
    gc.collect()  # else garbage of earlier work could be freed, and subtracted, during this work
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        peak, kept = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
        return peak - before, kept - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    events = [e for e in events if e["name"] == "[memory]" and e["args"]["Device Type"] == 0]
    events.sort(key=lambda e: e["args"]["Ev Idx"])
    totals = list(accumulate((e["args"]["Bytes"] for e in events), initial=0))
    return max(totals), totals[-1]


def measure_tensor_memory(
    make: Callable[[], Work], device: torch.device, first: int = 3
) -> tuple[int, int]:
    """Return the peak bytes of tensors in calls of what ``make`` returns: (steady, at first).

    ``at first`` is the peak of ``make`` and the ``first`` calls; ``steady`` that of the next call,
    with all that ``make`` and the earlier calls keep.
    """
    made: list[Work] = []

    def begin() -> None:
        made.append(make())
        for _ in range(first):
            made[0]()

    at_first, kept = count_tensor_bytes(begin, device)
    peak, _ = count_tensor_bytes(made[0], device)
    return kept + peak, at_first


class ChildProcess:
    """A process that calls ``factory(*arguments)`` once and the returned function at every turn.

    What one variant sets for its process (threads, precision of matrix products, the directory of
    compiled kernels) then changes nothing for another, and each has its own peak memory. Use it as
    a context manager. If the returned function has a ``close``, the process calls it at its end.

    Args:
        factory: a function of a module, pickled by name.
        arguments: its arguments.
        environment: environment variables that the process adds to its own.

    Raises:
        RuntimeError: the process failed; the message has its traceback.
    """

    def __init__(
        self,
        factory: Callable[..., Callable[..., Any]],
        *arguments: Any,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOAD)
        self._pipe, other = context.Pipe()
        # Not a daemon: a daemon may not have children, such as the workers of a DataLoader.
        self._process = context.Process(
            target=_serve, args=(other, factory, arguments, dict(environment or {}))
        )
        self._process.start()
        other.close()

    def __enter__(self) -> "ChildProcess":
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()
        self._process.close()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def start_turn(self, *arguments: Any) -> None:
        """Start a turn; :meth:`finish_turn` waits for its end."""
        self._pipe.send(arguments)

    def finish_turn(self) -> Any:
        """Wait for the end of a turn and return its result."""
        try:
            failed, result = self._pipe.recv()
        except EOFError as error:
            raise RuntimeError("a child process of the benchmark ended early") from error
        if failed:
            raise RuntimeError(f"a child process of the benchmark failed:\n{result}")
        return result

    def turn(self, *arguments: Any) -> Any:
        """Call the process's function and return its result."""
        self.start_turn(*arguments)
        return self.finish_turn()

    def peak_memory(self) -> float:
        """Return the peak in MB: on CUDA of tensors, else resident beyond the imports.

        It is 0 where /proc does not say.
        """
        return self.turn("memory") / 1e6


def _serve(
    pipe: Connection,
    factory: Callable[..., Callable[..., Any]],
    arguments: tuple[Any, ...],
    environment: dict[str, str],
) -> None:
    os.environ.update(environment)
    # In a child of a fork server, DataLoader workers would start by a fork server too, which takes
    # seconds; in a typical program they start by fork.
    multiprocessing.set_start_method("fork", force=True)
    Thread(target=_exit_with_parent, daemon=True).start()
    imports, function = _resident_bytes("VmRSS"), None
    try:
        while True:
            request = pipe.recv()
            if request == ("memory",):
                cuda = torch.cuda.is_initialized()
                resident = max(0, _resident_bytes("VmHWM") - imports)
                pipe.send((False, torch.cuda.max_memory_allocated() if cuda else resident))
                continue
            function = function or factory(*arguments)
            pipe.send((False, function(*request)))
    except EOFError:
        return  # the parent has closed its end
    except BaseException:
        pipe.send((True, traceback.format_exc()))
    finally:
        # A process of multiprocessing does not call the functions of atexit.
        getattr(function, "close", lambda: None)()


def _exit_with_parent() -> None:
    """Exit if the parent was killed, even in the middle of a turn."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _resident_bytes(field: str) -> int:
    """Return the resident memory now (VmRSS) or at its peak (VmHWM); 0 where /proc does not say.

    getrusage's ru_maxrss does not fit: across exec a child keeps its parent's.
    """
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"{field}:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else 0
