"""Claims of a study file as dataclasses: their rules, measures and pairs of configurations."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, get_args

from lrd.analysis.claims.rules import Combination, Criterion, Direction
from lrd.analysis.resolve import CellSpec

# Of a measure: what it is of its metrics, its unit, and how many names it takes.
MEASURES = {
    "final": ("{0} of the last epoch", "", 1),
    "gap": ("{0} minus {1} of the last epoch", "", 2),
    "rate": ("{0} in % of {1} at the last epoch", "points", 2),
    "range": ("range of {0} of the last epoch", "", 1),
    "best": ("best {0} of the last epoch", "", 1),
    "time": ("epochs to fixed marks of {0}", "%", 1),
    "cost": ("time of '{1}' with '{2}'", "%", 3),
}
REDUCED = ("range", "best")  # measures that grow with the number of cells of a side
PART_KEYS = {
    *("measure", "must", "smallest", "n", "sd", "pairs"),
    *("together", "least", "expect"),
}


@dataclass(frozen=True)
class Pair:
    """Two sides of a comparison; a side is the mean, or the range, over its cells."""

    base: tuple[CellSpec, ...]
    other: tuple[CellSpec, ...]

    @property
    def cells(self) -> tuple[CellSpec, ...]:
        return self.base + self.other

    @property
    def label(self) -> str:
        """Where and between what: ``table2 optim=adam: lrd.p=1 to lrd.p=0.5``."""
        base, other = _join(self.base), _join(self.other)
        common = [part for part in base if part in other]
        sides = (" ".join(part for part in side if part not in common) for side in (base, other))
        where, between = " ".join(common), " to ".join(sides)
        return f"{where}: {between}" if where else between


def _join(side: Sequence[CellSpec]) -> list[str]:
    """Return what a side's cells are, ``[table2, lrd.p=0.3,0.5,0.7]``."""
    values: dict[str, dict[str, None]] = {}
    for cell in side:
        for override in cell.overrides:
            name, _, value = override.partition("=")
            values.setdefault(name, {})[value] = None
    experiments = dict.fromkeys(cell.experiment for cell in side)
    return [*experiments, *(f"{name}={','.join(found)}" for name, found in values.items())]


@dataclass(frozen=True)
class Measure:
    """One of MEASURES, of the metrics named ``keys``.

    ``marks``: for ``time``, the values to reach, by experiment. ``until``: the share of the run
    in which they count.
    """

    name: str
    keys: tuple[str, ...] = ()
    marks: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)
    until: float = 1.0

    @property
    def unit(self) -> str:
        return MEASURES[self.name][1]

    def in_unit(self, difference: float) -> float:
        """Return a difference of two runs in ``unit``: that of ``time`` is 100 times a log."""
        return 100 * math.expm1(difference / 100) if self.name == "time" else difference

    @property
    def is_less_better(self) -> bool:
        """Whether a lower value is the better one."""
        return self.name in ("gap", "range", "time", "cost") or self.keys[0].endswith("loss")

    def __str__(self) -> str:
        return MEASURES[self.name][0].format(*(key.replace("_", " ") for key in self.keys))


@dataclass(frozen=True)
class Rule:
    """What the pairs of a claim must show by a measure, in how many seeds; see lrd_paper.yaml.

    ``n``: the planned number of seeds, which are 0 to n - 1. ``sd`` and ``expect``: the standard
    deviation of the paired differences and the effect for which n is planned; the paper's printed
    differences where ``expect`` is None.
    """

    measure: Measure
    criterion: Criterion
    pairs: tuple[Pair, ...]
    n: int
    sd: float
    expect: float | None = None

    def __str__(self) -> str:
        c, count = self.criterion, len(self.pairs)
        how = c.must.replace("_", " ")
        unit = f" {self.measure.unit}".rstrip()
        which = {
            "mean": "the mean",
            "each": f"{c.least} of {count}" if c.least else "each",
            "ordered": "each step in turn",
        }[c.together]
        if c.must == "no_change":
            return f"{self.measure}: {which} changes by less than {c.smallest:g}{unit}"
        return f"{self.measure}: {how} by {c.smallest:g}{unit} or more, {which}"


@dataclass(frozen=True)
class Claim:
    """What is claimed, where, and the rules that must all be supported."""

    name: str
    says: str
    where: str
    rules: tuple[Rule, ...]

    @property
    def n(self) -> int:
        """The seeds that all of its rules need."""
        return max(rule.n for rule in self.rules)


def read_claims(content: Mapping[str, Any]) -> tuple[Claim, ...]:
    """Read the claims of a study file. Raises ValueError, in one line, for what is wrong in it."""
    return tuple(_claim(name, given) for name, given in content.items())


def _claim(name: str, given: Any) -> Claim:
    if not isinstance(given, Mapping) or not {"says", "where", "parts"} <= given.keys():
        raise ValueError(f"{name} must have says, where and parts")
    if not given["parts"]:
        raise ValueError(f"{name} must have a part")
    return Claim(name, given["says"], given["where"], tuple(_rule(name, p) for p in given["parts"]))


def _rule(claim: str, part: Mapping[str, Any]) -> Rule:
    for key in ("measure", "must", "smallest", "n", "sd"):
        if key not in part:
            raise ValueError(f"{claim}: a part must have {key}")
    if unknown := sorted(part.keys() - PART_KEYS):
        raise ValueError(f"{claim}: a part has no {unknown[0]}: {', '.join(sorted(PART_KEYS))}")
    measure, must = _measure(claim, part["measure"]), part["must"]
    together, least = part.get("together", "mean"), part.get("least")
    _one_of(claim, "must", must, get_args(Direction))
    _one_of(claim, "together", together, get_args(Combination))
    numbers = {"smallest": part["smallest"], "sd": part["sd"]}
    for key, value in numbers.items():
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            raise ValueError(f"{claim}: {key} must be above 0, got {value}")
    n, expect = part["n"], part.get("expect")
    if type(n) is not int or n < 2:
        raise ValueError(f"{claim}: n must be a whole number of seeds of at least 2, got {n}")
    if expect is not None and type(expect) not in (int, float):
        raise ValueError(f"{claim}: expect must be a number, got {expect}")
    pairs = tuple(pair for entry in part.get("pairs", ()) for pair in _pairs(claim, entry))
    if bool(pairs) == (measure.name == "cost"):
        raise ValueError(f"{claim}: {measure.name} must have {'no ' * bool(pairs)}pairs")
    if least is not None and (together != "each" or type(least) is not int or least < 1):
        raise ValueError(f"{claim}: least must be a whole number and goes with each, got {least}")
    if least is not None and least > len(pairs):
        raise ValueError(f"{claim}: least must be at most {len(pairs)}, got {least}")
    if measure.name in REDUCED and any(len(p.base) != len(p.other) for p in pairs):
        raise ValueError(
            f"{claim}: {measure.name} must have as many cells on both sides: more give more"
        )
    for cell in (cell for pair in pairs for cell in pair.cells if measure.name == "time"):
        if cell.experiment not in measure.marks:
            raise ValueError(f"{claim}: marks must name {cell.experiment}")
    upward = must in ("rise", "no_fall")
    criterion = Criterion(
        must,
        float(part["smallest"]),
        together,
        least,
        favors_other=must in ("rise", "fall", "no_fall", "no_rise")
        and upward != measure.is_less_better,
    )
    return Rule(measure, criterion, pairs, n, float(part["sd"]), expect)


def _one_of(claim: str, name: str, value: Any, options: Sequence[str]) -> None:
    if value not in options:
        raise ValueError(f"{claim}: {name} must be one of {', '.join(options)}, got {value}")


def _measure(claim: str, given: Any) -> Measure:
    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"{claim}: measure must be NAME: METRIC, got {given}")
    name, *options = given
    _one_of(claim, "measure", name, tuple(MEASURES))
    keys = (given[name],) if isinstance(given[name], str) else tuple(given[name])
    if len(keys) != MEASURES[name][2]:
        raise ValueError(f"{claim}: {name} must have {MEASURES[name][2]} names, got {given[name]}")
    if name != "time":
        if options:
            raise ValueError(f"{claim}: {name} has no {options[0]}")
        return Measure(name, keys)
    marks, until = given.get("marks"), given.get("until", 1)
    if not isinstance(marks, Mapping) or not all(isinstance(m, list) for m in marks.values()):
        raise ValueError(f"{claim}: marks must be lists of values by experiment, got {marks}")
    if type(until) not in (int, float) or not 0 < until <= 1:
        raise ValueError(f"{claim}: until must be above 0 and at most 1, got {until}")
    by_experiment = {e: tuple(map(float, values)) for e, values in marks.items()}
    return Measure(name, keys, by_experiment, float(until))


def _pairs(claim: str, entry: Any) -> Iterator[Pair]:
    """Yield every pair of an entry: its experiments (or one for each side, named ``from`` and
    ``to``) times the values of ``over``.

    ``across`` gives the cells of each side. A setting of ``over`` or ``across`` goes to both sides
    unless ``from`` or ``to`` names it too; one that is called ``from.SETTING`` or ``to.SETTING``
    goes to that side alone.
    """
    given = entry.get("experiment") if isinstance(entry, Mapping) else None
    if isinstance(given, Mapping) and given.keys() == {"from", "to"}:
        experiments = [given]
    elif isinstance(given, list):
        experiments = [{"from": name, "to": name} for name in given]
    else:
        raise ValueError(f"{claim}: pairs must have a list of experiments, got {entry}")
    over, across = entry.get("over", {}), entry.get("across", {})
    for experiment, *values in product(experiments, *over.values()):
        chosen = dict(zip(over, values, strict=True))
        sides = []
        for side in ("from", "to"):
            swept = _of_side(across, side)
            cells = []
            for combination in product(*swept.values()):
                settings = _of_side(chosen, side) | dict(zip(swept, combination, strict=True))
                overrides = _overrides(settings, entry.get(side, ()))
                cells.append(CellSpec(experiment[side], overrides))
            sides.append(tuple(dict.fromkeys(cells)))
        yield Pair(*sides)


def _of_side(settings: Mapping[str, Any], side: str) -> dict[str, Any]:
    """Return the settings of one side, without the side in their names."""
    found = {n: v for n, v in settings.items() if not n.startswith(("from.", "to."))}
    own = {n: v for n, v in settings.items() if n.startswith(f"{side}.")}
    return found | {n.removeprefix(f"{side}."): v for n, v in own.items()}


def _overrides(swept: Mapping[str, Any], given: Sequence[str]) -> tuple[str, ...]:
    named = {override.partition("=")[0] for override in given}
    return (*(f"{name}={value}" for name, value in swept.items() if name not in named), *given)
