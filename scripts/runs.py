"""What runs there are: list, show, compare and prune them. Needs no torch.

    python scripts/runs.py                                   all of them
    python scripts/runs.py optim=adam lrd.p=0.5 state=failed those with these settings
    python scripts/runs.py --show RUN                        configuration, provenance, last epoch
    python scripts/runs.py --diff RUN RUN                    the settings in which two differ
    python scripts/runs.py --prune [FILTER ...] [--yes]      delete partial and failed ones

RUN is a run's folder, or the start of its fingerprint, with /seed<k> where there are several.
States: finished, running (a process holds it, or a job of a cluster), queued (a job waits for its
turn), partial (stopped; the same command goes on), failed, unreadable (its record is; the same
command mends it). Of a job, SLURM's own word for its state stands beside its id, where it knows it.
Rows that would look alike name the settings in which they differ.
"""

import argparse
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lrd.config.fingerprint import DEFAULTS, diff_identities, flatten
from lrd.launchers.slurm_queue import RunWithJob, list_runs
from lrd.runs.lock import RunLocked, run_lock
from lrd.runs.store import Run

HEADS = ["state", "data", "optim", "p", "seed", "epochs", "final", "job", "differs in", "folder"]
OPTIONAL = ("job", "differs in")  # columns that are left out where they would be empty
SHOWN = 3  # settings of a row; --diff has them all


def settings(run: RunWithJob) -> dict[str, Any]:
    """Everything that a filter may name: choices, resolved settings, seed, state, name and job."""
    return {
        **run.record.get("choices", {}),
        **flatten(run.record.get("config", {})),
        "state": run.state,
        "name": run.folder.parts[-3],
        "job": run.job,
    }


def matching(runs: Sequence[RunWithJob], filters: Sequence[str]) -> list[RunWithJob]:
    """The runs in which every ``setting=value`` holds. Raises ValueError for an unknown setting."""
    wanted = []
    for text in filters:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"a filter must be SETTING=VALUE, got {text}")
        if runs and not any(name in settings(run) for run in runs):
            raise ValueError(f"no run has a setting {name}; --show RUN lists those of a run")
        wanted.append((name, yaml.safe_load(value)))
    return [
        run for run in runs if all(_equal(settings(run).get(name), value) for name, value in wanted)
    ]


def _equal(there: Any, wanted: Any) -> bool:
    try:
        return float(there) == float(wanted)  # 1e-3 is a string to YAML
    except (TypeError, ValueError):
        return there == wanted


def line(run: RunWithJob) -> list[str]:
    record = run.record
    config, final = record.get("config", {}), record.get("final")
    epochs = config.get("train", {}).get("epochs", "?")
    unit = record.get("score", {}).get("unit", "")
    return [
        run.state,
        run.folder.parts[-3],
        str(record.get("choices", {}).get("optim", "?")),
        str(config.get("lrd", {}).get("p", "?")),
        str(record.get("seed", "?")),
        f"{_epochs_done(run)}/{epochs}",
        f"{final['value']:.2f} {unit}".strip() if final else "",
        f"{run.job} {run.slurm_state}".strip(),
        str(run.folder),
    ]


def telling(runs: Sequence[RunWithJob], rows: Sequence[list[str]]) -> list[str]:
    """For each run the settings in which it differs from those that its row looks like."""
    known = [run.record.get("identity", {}) for run in runs]
    alike: dict[tuple[str, ...], list[int]] = {}
    for number, (_, data, optim, p, seed, epochs, *_) in enumerate(rows):
        key = (data, optim, p, seed, epochs.rpartition("/")[2])
        if known[number]:
            alike.setdefault(key, []).append(number)
    told = [""] * len(rows)
    for numbers in alike.values():
        names = sorted({name for number in numbers for name in known[number]})
        values = {n: [known[k].get(n, DEFAULTS.get(n)) for k in numbers] for n in names}
        names = [name for name in names if any(v != values[name][0] for v in values[name])]
        for place, number in enumerate(numbers):
            settings = [f"{name}={values[name][place]}" for name in names]
            told[number] = " ".join([*settings[:SHOWN], *(["..."] * (len(settings) > SHOWN))])
    return told


def _epochs_done(run: Run) -> str:
    try:
        return str(len(run.metrics))
    except ValueError:
        return "damaged"


def listing(runs: Sequence[RunWithJob]) -> str:
    rows = [line(run) for run in runs]
    rows = [[*row[:-1], told, row[-1]] for row, told in zip(rows, telling(runs, rows), strict=True)]
    kept = [k for k in range(len(HEADS)) if HEADS[k] not in OPTIONAL or any(row[k] for row in rows)]
    table = [[row[k] for k in kept] for row in [HEADS, *rows]]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    rows = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in table]
    counts = ", ".join(f"{n} {state}" for state, n in Counter(r.state for r in runs).items())
    return "\n".join([*rows, f"{len(runs)} runs: {counts or 'none'}"])


def one(runs: Sequence[RunWithJob], name: str) -> RunWithJob:
    """The run that a folder or the start of a fingerprint names."""
    mark, _, seed = name.partition("/")
    found = [
        run
        for run in runs
        if run.folder.resolve() == Path(name).resolve()
        or (run.folder.parts[-2].startswith(mark) and seed in ("", run.folder.name))
    ]
    if len(found) != 1:
        there = ", ".join(f"{r.folder.parts[-2]}/{r.folder.name}" for r in found[:5]) or "none"
        raise ValueError(f"RUN must name one run, got {name}, which names {len(found)}: {there}")
    return found[0]


def show(run: RunWithJob) -> str:
    record = {k: v for k, v in run.record.items() if k not in ("identity", "format")}
    record = {"folder": str(run.folder), "state": run.state, **record}
    if metrics := run.metrics:
        record["last epoch"] = metrics[-1]
    return yaml.safe_dump(record, sort_keys=False, width=100).rstrip()


def prune(runs: Sequence[RunWithJob], root: Path, yes: bool) -> str:
    """Delete what neither finished nor runs, after asking; a run that starts meanwhile is left, and
    so is what a link leads to."""
    doomed = [
        run
        for run in runs
        if run.state in ("partial", "failed", "unreadable")
        and run.folder.resolve() == root.resolve() / run.folder.relative_to(root)
    ]
    if not doomed:
        return "nothing to prune"
    print(listing(doomed))
    if not yes and input("delete these? [y/N] ").strip().lower() not in ("y", "yes"):
        return "nothing deleted"
    deleted = 0
    for run in doomed:
        try:
            with run_lock(run.folder):
                shutil.rmtree(run.folder)
                deleted += 1
        except RunLocked as busy:
            print(f"left: {busy}")
        if run.folder.parent.is_dir() and not any(run.folder.parent.iterdir()):
            run.folder.parent.rmdir()
    return f"deleted {deleted}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("filters", nargs="*", metavar="SETTING=VALUE")
    parser.add_argument("--runs", default="runs", help="folder of the runs (default: runs)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--show", metavar="RUN")
    what.add_argument("--diff", nargs=2, metavar="RUN")
    what.add_argument("--prune", action="store_true")
    parser.add_argument("--yes", action="store_true", help="prune without asking")
    args = parser.parse_intermixed_args(arguments)
    try:
        runs = list_runs(args.runs)
        if args.show:
            print(show(one(runs, args.show)))
        elif args.diff:
            a, b = (settings(one(runs, name)) for name in args.diff)
            print("\n".join(diff_identities(a, b)) or "no difference")
        else:
            chosen = matching(runs, args.filters)
            print(prune(chosen, Path(args.runs), args.yes) if args.prune else listing(chosen))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
