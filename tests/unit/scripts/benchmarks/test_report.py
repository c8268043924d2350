"""Measurements are judged by their targets, and the text has every number."""

from dataclasses import replace
from typing import Any

import pytest

from scripts.benchmarks.report import BenchmarkTable, Bound, Measurement, measurements


@pytest.mark.parametrize(
    ("sign", "number", "met"),
    [("<=", 1.05, True), ("<=", 1.06, False), ("<", 1.05, False), (">=", 1.05, True)],
)
def test_a_target_is_judged_on_the_median_ratio(sign: str, number: float, met: bool):
    line = Measurement("a", "ms", [9.0], [number, 0.1, 99.0], target=Bound(sign, 1.05))
    assert line.met is met
    assert replace(line, judged=False).met is None
    assert replace(line, target=None).met is None


def test_a_target_can_bound_the_value():
    assert Measurement("row", "min", [59.0], target=Bound("<", 60, on="value")).met is True


def test_ratios_to_the_baseline_are_taken_round_by_round():
    base, other = measurements(
        {"base": [1.0, 2.0], "other": [3.0, 2.0]}, "base", unit="ms", scale=1000
    )
    assert base.samples == [1000.0, 2000.0] and base.ratios == []
    assert other.ratios == [3.0, 1.0]


def table_of(*lines: Measurement, **settings: Any) -> BenchmarkTable:
    return BenchmarkTable("step", "a title", lines[0].label, list(lines), **settings)


def test_text_shows_every_number_and_whether_the_target_was_met():
    baseline = Measurement("torch", "ms", [2.5])
    line = Measurement("ours", "ms", [2.0, 3.0, 4.0], [1.1, 1.2, 1.3], 8.0, Bound("<=", 1.05))
    text = table_of(baseline, line, memory="B/param", notes=["so"]).to_text()
    head, row = (x.split() for x in text.splitlines() if x.startswith(("variant", "ours")))
    assert "B/param" in head and "target" in head
    assert row == [
        "ours",
        "3",
        "ms",
        "2",
        "2.5-3.5",
        "1.200",
        "1.150-1.250",
        "8",
        "<=",
        "1.05",
        "NO",
    ]
    assert "ratios to: torch; lower is better" in text and text.endswith("  so")


def test_toy_sizes_are_not_judged():
    line = Measurement("ours", "ms", [2.0], [9.0], target=Bound("<=", 1.05), judged=False)
    assert "not judged" in table_of(line).to_text()
