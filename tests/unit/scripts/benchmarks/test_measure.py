"""Timing by turns, quartiles and the memory of tensors; never a speed."""

import math
from collections.abc import Callable

import pytest
import torch

from scripts.benchmarks.measure import (
    Clock,
    Quartiles,
    Variant,
    clock_for,
    count_tensor_bytes,
    interleave,
    measure_tensor_memory,
    pairwise_ratios,
    time_variant,
)

CPU = torch.device("cpu")


class FakeTime:
    """A clock that only the variants' work advances."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def variant(self, label: str, *seconds: float, before: float | None = None) -> Variant:
        """Return a variant whose calls take ``seconds`` in turn, the last of them repeatedly."""
        left = list(seconds)

        def work() -> None:
            self.calls.append(label)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        def untimed() -> None:
            self.now += before or 0.0

        return Variant(label, work, untimed if before is not None else None)

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now)


def test_variants_take_turns_after_the_warmup():
    fake = FakeTime()
    variants = [fake.variant("a", 1.0), fake.variant("b", 2.0)]
    interleave(variants, 3, fake.clock, turn_seconds=0.1, warmup=2)
    assert fake.calls == ["a"] * 3 + ["b"] * 3 + ["a", "b"] * 3


def test_a_turn_lasts_the_requested_time_and_yields_its_mean():
    fake = FakeTime()
    samples = interleave([fake.variant("a", 0.25), fake.variant("b", 3.0)], 2, fake.clock, 1.0)
    assert samples == {"a": [0.25, 0.25], "b": [3.0, 3.0]}
    assert fake.calls[8:] == ["a"] * 4 + ["b"] + ["a"] * 4 + ["b"]


def test_before_is_not_timed():
    fake = FakeTime()
    samples = interleave([fake.variant("a", 0.5, before=7.0)], 2, fake.clock, turn_seconds=1.0)
    assert samples == {"a": [0.5, 0.5]}


def test_samples_exclude_the_warmup():
    fake = FakeTime()
    slow_at_first = fake.variant("a", 60.0, 1.0)
    samples = interleave([slow_at_first], 2, fake.clock, turn_seconds=0.5, warmup=1)
    assert samples == {"a": [1.0, 1.0]}


def test_ratios_pair_the_rounds():
    assert pairwise_ratios([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]) == [2.0, 3.0, 1.0]


def test_quartiles_are_median_quartiles_and_minimum():
    assert Quartiles.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Quartiles(3.0, 2.0, 4.0, 1.0)
    assert Quartiles.of([7.0]) == Quartiles(7.0, 7.0, 7.0, 7.0)


def test_gpu_times_come_from_events(monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.number = sum(call.startswith("new") for call in calls)
            calls.append(f"new {self.number}")

        def record(self) -> None:
            calls.append(f"record {self.number}")

        def synchronize(self) -> None:
            calls.append(f"wait {self.number}")

        def elapsed_time(self, end: "Event") -> float:
            return 250.0 if end.number > self.number else math.nan

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("wait"))
    clock = clock_for(torch.device("cuda"))
    variant = Variant("a", lambda: calls.append("work"))
    assert time_variant(variant, 2, clock) == 0.125
    begin, end = ["wait", "new 0", "new 1", "record 0"], ["record 1", "wait 1"]
    assert calls == [*begin, "work", "work", *end]


def test_tensor_bytes_are_exact():
    for _ in range(2):  # the second call counts nothing of the first
        kept: list[torch.Tensor] = []

        def work(kept: list[torch.Tensor] = kept) -> None:
            kept.append(torch.zeros(1000))
            kept[0] = torch.zeros(2000)  # while the 1000 are still allocated
            torch.zeros(500)

        assert count_tensor_bytes(work, CPU) == (12_000, 8_000)


def test_steady_memory_is_what_stays_plus_the_scratch_of_a_later_call():
    def make() -> Callable[[], object]:
        stays, calls = torch.zeros(1000), []

        def work() -> int:
            calls.append(1)
            return len(torch.cat([stays] * (5 if len(calls) == 1 else 2)))

        return work

    assert measure_tensor_memory(make, CPU) == (12_000, 24_000)
