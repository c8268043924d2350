"""What a section hands back: tables of lines with every raw number, and targets judged on them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.timing import Spread, ratios


@dataclass(frozen=True)
class Target:
    """A bound on a line's ratio, or on its ``value``."""

    sign: str
    bound: float
    on: str = "ratio"

    def holds(self, number: float) -> bool:
        signs = {
            "<": number < self.bound,
            "<=": number <= self.bound,
            ">=": number >= self.bound,
        }
        return signs[self.sign]

    def __str__(self) -> str:
        return f"{self.sign} {self.bound:g}"


@dataclass
class Line:
    """One form: its raw numbers by round and, against the baseline of the table, their ratios."""

    label: str
    unit: str
    samples: list[float]
    ratios: list[float] = field(default_factory=list)
    memory: float | None = None
    target: Target | None = None
    judged: bool = True
    x: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target holds for the median; None without one, or where sizes are toys."""
        if self.target is None or not self.judged:
            return None
        numbers = self.ratios if self.target.on == "ratio" else self.samples
        return self.target.holds(Spread.of(numbers).median)

    def as_json(self) -> dict[str, Any]:
        out = asdict(self) | {"target": self.target and str(self.target), "met": self.met}
        out["spread"] = asdict(Spread.of(self.samples))
        if self.ratios:
            out["ratio_spread"] = asdict(Spread.of(self.ratios))
        return out


@dataclass
class Table:
    """Lines under one title. ``better`` says which way the ratios are good: "lower" or "higher";
    ``memory`` what the lines' memory counts; ``x`` what a sweep varies, if it is one."""

    section: str
    title: str
    baseline: str
    lines: list[Line]
    better: str = "lower"
    memory: str = ""
    x: str | None = None
    notes: list[str] = field(default_factory=list)

    def line(self, label: str) -> Line:
        return next(line for line in self.lines if line.label == label)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"lines": [line.as_json() for line in self.lines]}


def lines_of(
    samples: Mapping[str, Sequence[float]],
    baseline: str,
    *,
    unit: str,
    scale: float = 1.0,
    memory: Mapping[str, float] | None = None,
    targets: Mapping[str, Target] | None = None,
    judged: bool = True,
) -> list[Line]:
    """A line for each form of ``samples``, which are multiplied by ``scale`` to be in ``unit``."""
    return [
        Line(
            label,
            unit,
            [scale * number for number in numbers],
            [] if label == baseline else ratios(numbers, samples[baseline]),
            (memory or {}).get(label),
            (targets or {}).get(label),
            judged,
        )
        for label, numbers in samples.items()
    ]
