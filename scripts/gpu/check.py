"""The first minutes on a GPU: what is checked, in which order, and for how long at most."""

import json
import xml.etree.ElementTree as xml
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lrd.config.compose import compose, to_config
from scripts.benchmarks import report
from scripts.benchmarks.measure import Options
from scripts.gpu.pairs import describe_pair, run_pairs
from scripts.gpu.parts import PROJECT, Deadline, Record, portable, run_limited

REAL = ("task=cifar10", "train=fast")  # of the real runs, before the command line's settings
# The largest share of the budget of each part before the real runs, which get the rest.
SHARES = {"tests": 0.2, "step": 0.12, "loop": 0.22, "data": 0.06, "epochs": 0.1}


def check_device(
    minutes: float, device: str, quick: bool, given: Sequence[str], folder: Path
) -> Record:
    """Run every part within ``minutes``; return the record, which is written as parts end.

    Args:
        minutes: the budget.
        device: cuda, or cpu for a rehearsal.
        quick: benchmarks of toy sizes, for a rehearsal.
        given: settings of the real runs.
        folder: where results go; what its record holds as done is not repeated.

    Raises:
        ValueError: there is no GPU, a setting is wrong, or ``folder`` holds another check.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device must be cpu where torch finds no GPU, got cuda")
    deadline = Deadline(60 * minutes)
    overrides = [*REAL, f"train.device={device}", *given]
    config = to_config(compose([*overrides, "optim=sgdm"]))
    facts = report.environment_facts(Options(torch.device(device)), [])
    del facts["command"]
    settings = [text for text in given if not text.startswith("data.root=")]
    facts["settings"] = [*settings, *(["--quick"] if quick else [])]
    record = Record(folder, {**facts, "minutes": minutes})
    print(report.headline(facts), flush=True)
    data = portable(config.data.root)
    for name, arguments, result in parts(device, quick, data, overrides, folder):
        if record.is_done(name):
            print(f"{name}: done before", flush=True)
            continue
        limit = min(SHARES[name] * deadline.budget, deadline.left)
        outcome = run_limited(arguments, limit, folder / f"{name}.log")
        with suppress(OSError, ValueError, xml.ParseError):  # a part that ended early has none
            outcome.result = result()
        record.add(name, outcome)
        print(f"{name}: {outcome}{_line(name, outcome.result)}", flush=True)
    if record.parts["epochs"]["result"]:
        run_pairs([*overrides, f"data.root={data}"], folder / "runs", deadline, record)
    else:
        print("no real runs: without the part epochs nothing says how long an epoch takes")
    for pair in record.pairs:
        print(describe_pair(pair))
    return record


def parts(
    device: str, quick: bool, data: str, overrides: Sequence[str], folder: Path
) -> Iterator[tuple[str, list[str], Callable[[], dict[str, Any]]]]:
    """Yield name and arguments of each part, and a function that reads its result."""
    files = [
        str(path.relative_to(PROJECT))
        for path in sorted((PROJECT / "tests").rglob("test_*.py"))
        if "mark.gpu" in path.read_text()
    ]
    chosen = ["-m", "gpu and not slow and not exhaustive", "-p", "no:cacheprovider", "-q"]
    chosen.append(f"--junit-xml={portable(folder / 'tests.xml')}")
    yield "tests", ["-m", "pytest", *chosen, *files], lambda: read_counts(folder / "tests.xml")
    for name in ("step", "loop", "data"):
        arguments = ["scripts/bench.py", name, "--device", device, "--rounds", "2", "--data", data]
        arguments += [*(["--quick"] if quick else []), "--out", portable(folder / name)]
        yield name, arguments, lambda name=name: _tables(folder / name / "bench.json")
    path, own = folder / "epochs.json", [*overrides, f"data.root={data}", "optim=sgdm", "lrd.p=0.5"]
    arguments = ["-m", "scripts.gpu.epochs", portable(path), *own]
    yield "epochs", arguments, lambda: json.loads(path.read_text())


def read_counts(path: Path) -> dict[str, Any]:
    """Return the numbers of tests from pytest's JUnit file, and the names of those that failed."""
    suite = next(xml.parse(path).getroot().iter("testsuite"))
    counts: dict[str, Any] = {k: int(suite.get(k, 0)) for k in ("tests", "skipped")}
    bad = [c for c in suite.iter("testcase") if {"failure", "error"} & {e.tag for e in c}]
    return counts | {"failed": [f"{c.get('classname')}::{c.get('name')}" for c in bad]}


def _tables(path: Path) -> dict[str, Any]:
    tables = json.loads(path.read_text())["tables"]
    missed = [line["label"] for t in tables for line in t["lines"] if line["met"] is False]
    return {"tables": [table["title"] for table in tables], "targets_missed": missed}


def _line(name: str, result: dict[str, Any]) -> str:
    """Return what a part found in a few words."""
    if not result:
        return ""
    if name == "tests":
        passed = result["tests"] - result["skipped"] - len(result["failed"])
        return f"; {passed} passed, {result['skipped']} skipped, {len(result['failed'])} failed"
    if name == "epochs":
        calls = sum(result.get("synchronizations", {}).values())
        rate = f"{result['images_per_second']:,.0f} images/s"
        return f"; {rate}, {calls} synchronizations in an epoch of {result['steps']} steps"
    return f"; tables: {len(result['tables'])}, targets missed: {len(result['targets_missed'])}"
