"""Claims of a study: rules, written down before the runs, that say what runs must show."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, get_args

from lrd.analysis.studies.spec import CellSpec

Direction = Literal["rise", "fall", "no_rise", "no_fall"]
Combination = Literal["each", "pooled", "most"]
# Of a measure: what it is of its metrics, and the unit of a difference.
MEASURES = {
    "final": ("{} of the last epoch", ""),
    "mean": ("mean {} over the epochs", ""),
    "gap": ("{} of the last epoch", ""),
    "reach": ("epochs until the base's last {}", "% of the run"),
    "seconds": ("seconds of training an epoch", "%"),
}


@dataclass(frozen=True)
class Measure:
    """One of MEASURES, of the metrics named ``keys``."""

    name: str
    keys: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        return MEASURES[self.name][1]

    def __str__(self) -> str:
        metrics = " minus ".join(key.replace("_", " ") for key in self.keys)
        return MEASURES[self.name][0].format(metrics)


@dataclass(frozen=True)
class Rule:
    """What the comparisons of a measure must do, by at least ``smallest``; see paper.yaml."""

    measure: Measure
    must: Direction
    smallest: float
    together: Combination
    pairs: tuple[tuple[CellSpec, CellSpec], ...]

    def __str__(self) -> str:
        how = self.must.replace("_", " ")
        unit = f" {self.measure.unit}".rstrip()
        joined = {"each": "each by itself", "pooled": "pooled", "most": "at least 80 % of them"}
        return f"{self.measure}: {how} by {self.smallest:g}{unit} or more, {joined[self.together]}"


@dataclass(frozen=True)
class Claim:
    name: str
    says: str
    where: str
    rules: tuple[Rule, ...]


def _rule(claim: str, part: Mapping[str, Any]) -> Rule:
    given, must = part["measure"], part["must"]
    measure, keys = next(iter(given.items())) if isinstance(given, dict) else (given, ())
    keys = (keys,) if isinstance(keys, str) else tuple(keys)
    together, smallest = part.get("together", "each"), part["smallest"]
    for name, value, options in (
        ("measure", measure, tuple(MEASURES)),
        ("must", must, get_args(Direction)),
        ("together", together, get_args(Combination)),
    ):
        if value not in options:
            raise ValueError(f"{claim}: {name} must be one of {', '.join(options)}, got {value}")
    if not isinstance(smallest, int | float) or smallest <= 0:
        raise ValueError(f"{claim}: smallest must be above 0, got {smallest}")
    pairs = tuple(pair for entry in part["pairs"] for pair in _pairs(entry))
    return Rule(Measure(measure, keys), must, float(smallest), together, pairs)


def _pairs(entry: Mapping[str, Any]) -> Iterator[tuple[CellSpec, CellSpec]]:
    """Yield every pair of cells of an entry: experiments times the values of ``over``.

    A setting of ``over`` goes to both cells unless ``from`` or ``to`` names it too; one that is
    called ``from.SETTING`` goes to the first alone.
    """
    over = entry.get("over", {})
    for experiment, *values in product(entry["experiment"], *over.values()):
        chosen = dict(zip(over, values, strict=True))
        both = {name: v for name, v in chosen.items() if not name.startswith("from.")}
        first = {n.removeprefix("from."): v for n, v in chosen.items() if n.startswith("from.")}
        base = _overrides(both | first, entry["from"])
        other = _overrides(both, entry.get("to", ()))
        yield CellSpec(experiment, base), CellSpec(experiment, other)


def _overrides(swept: Mapping[str, Any], given: Sequence[str]) -> tuple[str, ...]:
    named = {override.partition("=")[0] for override in given}
    return (*(f"{name}={value}" for name, value in swept.items() if name not in named), *given)


def read_claims(content: Mapping[str, Any]) -> tuple[Claim, ...]:
    """Return the claims of a study's file."""
    return tuple(
        Claim(name, c["says"], c["where"], tuple(_rule(name, part) for part in c["parts"]))
        for name, c in content.get("claims", {}).items()
    )
