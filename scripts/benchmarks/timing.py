"""Interleaved timing: A B A B ..., so that what slows the machine down slows all forms alike."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Form:
    """One way to do the work. ``before`` runs untimed ahead of every repetition."""

    label: str
    work: Work
    before: Work | None = None


class Clock:
    """Seconds between :meth:`start` and :meth:`stop`."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now, self._began = now, 0.0

    def start(self) -> None:
        self._began = self._now()

    def stop(self) -> float:
        return self._now() - self._began


class CudaClock(Clock):
    """Seconds on the device's own clock, from an idle device to the end of what was launched."""

    def start(self) -> None:
        torch.cuda.synchronize()
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        self._events[0].record()

    def stop(self) -> float:
        self._events[1].record()
        self._events[1].synchronize()
        return self._events[0].elapsed_time(self._events[1]) / 1000


def clock_of(device: torch.device) -> Clock:
    return CudaClock() if device.type == "cuda" else Clock()


def seconds_of(form: Form, repeats: int, clock: Clock) -> float:
    """Mean seconds of one repetition. Without ``before`` the repetitions run back to back, as the
    steps of a training run do."""
    if form.before is None:
        clock.start()
        for _ in range(repeats):
            form.work()
        return clock.stop() / repeats
    total = 0.0
    for _ in range(repeats):
        form.before()
        clock.start()
        form.work()
        total += clock.stop()
    return total / repeats


def interleave(
    forms: Sequence[Form], rounds: int, clock: Clock, least: float = 0.2, warm: int = 3
) -> dict[str, list[float]]:
    """Seconds of each form in each of ``rounds`` rounds; in a round every form has one turn.

    A turn is as many repetitions as take about ``least`` seconds, found after ``warm`` untimed
    ones, which also compile what is to be compiled.
    """
    repeats = {}
    for form in forms:
        for _ in range(warm):
            seconds_of(form, 1, clock)
        once = seconds_of(form, 1, clock)
        repeats[form.label] = min(max(1, math.ceil(least / max(once, 1e-9))), 10_000)
    samples: dict[str, list[float]] = {form.label: [] for form in forms}
    for _ in range(rounds):
        for form in forms:
            samples[form.label].append(seconds_of(form, repeats[form.label], clock))
    return samples


def ratios(samples: Sequence[float], baseline: Sequence[float]) -> list[float]:
    """Round by round, so that a slow round of the machine cancels out."""
    return [a / b for a, b in zip(samples, baseline, strict=True)]


@dataclass(frozen=True)
class Spread:
    """The middle of some numbers and how far apart they lie."""

    median: float
    low: float
    high: float
    least: float

    @staticmethod
    def of(numbers: Sequence[float]) -> "Spread":
        """Median, quartiles and minimum; of one number, that number."""
        if len(numbers) == 1:
            return Spread(*[numbers[0]] * 4)
        low, median, high = statistics.quantiles(numbers, n=4, method="inclusive")
        return Spread(median, low, high, min(numbers))
