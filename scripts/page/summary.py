"""The page's first sentences: how many runs there are, from where and when."""

from collections import Counter
from collections.abc import Sequence

from lrd.runs.store import Run
from page.records import at, counted, facts, text

NAMED = 2  # of several machines, versions or commits, the most frequent ones by name


def plural(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def summarize(runs: Sequence[Run], root: str) -> str:
    if not runs:
        return f"There are no runs under {root} yet."
    states = Counter(run.state for run in runs)
    ordered = sorted(states.items(), key=lambda s: (s[0] != "finished", s[0]))
    told = ", ".join(f"{n:,} {state}" for state, n in ordered)
    made = facts(runs)
    torch = (text(at(run.record, "versions", "torch")) for run in runs)
    parts = [
        f"made {made.dates} (UTC)" if made.first else "",
        _several("on ", made.hardware, "machine"),
        _several("with torch ", counted(torch), "version"),
        _several("at commit ", made.commits, "commit"),
    ]
    start = f"{plural(len(runs), 'run')} under {root} ({told})"
    return ", ".join([start, *filter(None, parts)]) + "."


def _several(before: str, counted: Sequence[tuple[str, int]], what: str) -> str:
    """The most frequent ones by name, and how many others there are."""
    if not counted:
        return ""
    names = [text for text, _ in counted[:NAMED]]
    more = len(counted) - len(names)
    others = [f"{plural(more, 'more ' + what)}"] if more else []
    return before + _listed([*names, *others])


def _listed(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1])] * (len(texts) > 1) + [texts[-1]])
