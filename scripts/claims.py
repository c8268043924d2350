"""The paper's claims as questions to runs: what scripts/paper/claims.yaml asks for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from layout import Cell

FILE = Path(__file__).parent / "paper" / "claims.yaml"
Must = Literal["rise", "fall", "no_rise", "no_fall"]
Together = Literal["each", "pooled", "most"]
MEASURES = ("final", "mean", "gap", "reach", "seconds")


@dataclass(frozen=True)
class Measure:
    """One of MEASURES, of the metrics named ``keys``."""

    name: str
    keys: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        return {"reach": "% of the run", "seconds": "%"}.get(self.name, "")

    def __str__(self) -> str:
        key = " less ".join(key.replace("_", " ") for key in self.keys)
        return {
            "final": f"{key} of the last epoch",
            "mean": f"mean {key} over the epochs",
            "gap": f"{key} of the last epoch",
            "reach": f"epochs until the base's last {key}",
            "seconds": "seconds of training an epoch",
        }[self.name]


@dataclass(frozen=True)
class Rule:
    """What comparisons of ``measure`` must do, by at least ``smallest``; see claims.yaml."""

    measure: Measure
    must: Must
    smallest: float
    together: Together
    pairs: tuple[tuple[Cell, Cell], ...]

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


def read_claims(path: Path = FILE) -> tuple[int, list[Claim]]:
    """The least number of seeds that say something, and the claims. Raises ValueError, in one line,
    for a file that is not as claims.yaml says."""
    try:
        content = yaml.safe_load(path.read_text())
        seeds = int(content["seeds"])
        claims = [
            Claim(name, c["says"], c["where"], tuple(_rule(name, part) for part in c["parts"]))
            for name, c in content["claims"].items()
        ]
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        what = " ".join(str(error).split())
        raise ValueError(f"{path} must be as {FILE.name} says: {what or error!r}") from error
    return seeds, claims


def _rule(claim: str, part: Mapping[str, Any]) -> Rule:
    measure, must = _measure(claim, part["measure"]), part["must"]
    together, smallest = part.get("together", "each"), part["smallest"]
    for name, value, options in (
        ("must", must, get_args(Must)),
        ("together", together, get_args(Together)),
    ):
        if value not in options:
            raise ValueError(f"{claim}: {name} must be one of {', '.join(options)}, got {value}")
    if not isinstance(smallest, int | float) or smallest <= 0:
        raise ValueError(f"{claim}: smallest must be above 0, got {smallest}")
    pairs = tuple(pair for entry in part["pairs"] for pair in _pairs(entry))
    return Rule(measure, must, float(smallest), together, pairs)


def _measure(claim: str, given: Any) -> Measure:
    name, keys = next(iter(given.items())) if isinstance(given, dict) else (given, ())
    keys = (keys,) if isinstance(keys, str) else tuple(keys)
    if name not in MEASURES:
        raise ValueError(f"{claim}: measure must be one of {', '.join(MEASURES)}, got {name}")
    return Measure(name, keys)


def _pairs(entry: Mapping[str, Any]) -> Iterator[tuple[Cell, Cell]]:
    """Every pair of cells that an entry stands for: experiments times the values of ``over``.

    A setting of ``over`` goes to both cells but where ``from`` or ``to`` names it too; one that is
    called ``from.SETTING`` to the first alone.
    """
    over = entry.get("over", {})
    for experiment, *values in product(entry["experiment"], *over.values()):
        chosen = dict(zip(over, values, strict=True))
        both = {name: v for name, v in chosen.items() if not name.startswith("from.")}
        first = {n.removeprefix("from."): v for n, v in chosen.items() if n.startswith("from.")}
        base = _overrides(both | first, entry["from"])
        other = _overrides(both, entry.get("to", ()))
        yield Cell(experiment, base), Cell(experiment, other)


def _overrides(swept: Mapping[str, Any], given: Sequence[str]) -> tuple[str, ...]:
    named = {override.partition("=")[0] for override in given}
    return (*(f"{name}={value}" for name, value in swept.items() if name not in named), *given)
