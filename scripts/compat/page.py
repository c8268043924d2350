"""The page docs/compatibility.md, from what the checks found."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version

from scripts.compat.checks import PAUSED_AFTER, SAVED_AFTER, STEPS, Outcome, P

COLUMNS = {"p = 1": "plain", f"p = {P}": "masked", "resume": "resumed"}
WORDS = {True: "yes", False: "**no**", None: "-"}
INTRODUCTION = f"""# Compatibility

Which optimizers work inside `LRDropout`. `python -m scripts.compat` writes this page; it
needs `pip install -e '.[compat]'`. Each optimizer trains a small network (a convolution, two linear
layers and a normalization; float32, on a CPU) for {STEPS} steps, by its package's default settings
where the note names no others. All comparisons are bitwise.

- **p = 1**: weights and state are the plain optimizer's.
- **p = {P}**: after every step, each element with mask 0 has its old value, and each element with
  mask 1 has the value that the plain optimizer gives it from the same weights and state. The mask
  is `lrd.optim.keep_mask`'s.
- **resume**: a run is saved after step {SAVED_AFTER} by `torch.save`, loaded with
  `weights_only=True` into a new model and a new LRDropout, and continued. It ends as the
  uninterrupted run, with its p, seed and step. A dash: the plain optimizer cannot do so itself.

An optimizer with `train()` and `eval()` gets both calls, through LRDropout, after step
{PAUSED_AFTER}. The note says how an optimizer is constructed, if a step needs a closure or
`create_graph`, and why a check does not apply. timm's are the names that it registers, with a
learning rate of 0.001, without those of bitsandbytes and apex.
"""


def compatibility_page(outcomes: Sequence[Outcome]) -> str:
    """Return the page: counts by package, then a table for each package."""
    packages = list(dict.fromkeys(outcome.package for outcome in outcomes))
    lines = [INTRODUCTION, *_table(["package", "version", *COLUMNS])]
    for package in packages:
        counts = package_counts([o for o in outcomes if o.package == package])
        number = version(package).partition("+")[0]
        lines.append(_row([f"[{package}](#{package})", number, *counts]))
    for package in packages:
        lines += ["", f"## {package}", "", *_table(["optimizer", *COLUMNS, "note"])]
        lines += outcome_rows([o for o in outcomes if o.package == package])
    return "\n".join([*lines, ""])


def package_counts(outcomes: Sequence[Outcome]) -> list[str]:
    """Return ``n of m`` for each check: how many of all the optimizers of a package pass it."""
    passed = [sum(getattr(o, name) is True for o in outcomes) for name in COLUMNS.values()]
    return [f"{n} of {len(outcomes)}" for n in passed]


def outcome_rows(outcomes: Sequence[Outcome]) -> Iterator[str]:
    for outcome in outcomes:
        found = [WORDS[getattr(outcome, name)] for name in COLUMNS.values()]
        yield _row([outcome.name, *found, "; ".join(outcome.notes)])


def _table(heads: Sequence[str]) -> list[str]:
    return [_row(heads), _row(["---"] * len(heads)).replace(" ", "")]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")
