"""What the project says of itself: version, requirements, published records, figures in README."""

import json
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from scipy import stats

import lrd
import lrd.analysis
import lrd.optim
from lrd.analysis.resolve import expand_sweep

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    version, date = re.findall(r"^## ([\d.]+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)[
        0
    ]
    assert lrd.__version__ == citation["version"] == version
    assert citation["date-released"] == date
    assert citation["license"] == PROJECT["license"]


def test_constraints_name_every_package_of_every_extra():
    pinned = [
        Requirement(line)
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert all(re.fullmatch("==[^=]+", str(r.specifier)) for r in pinned)
    wanted = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
    names, done = [Requirement(text).name for text in wanted], set[str]()
    while names:
        if (name := canonicalize_name(names.pop())) in done:
            continue
        done.add(name)
        try:
            needed = map(Requirement, requires(name) or [])
        except PackageNotFoundError:  # of an extra that is not installed here
            continue
        names += [r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    done -= {canonicalize_name(PROJECT["name"])}
    assert done - {canonicalize_name(r.name) for r in pinned} == set()


@pytest.mark.parametrize("package", [lrd, lrd.optim, lrd.analysis], ids=lambda m: m.__name__)
def test_dir_shows_the_public_names_and_each_exists(package: Any):
    assert dir(package) == sorted(package.__all__)
    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        package.nothing_like_it  # noqa: B018


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield str(key)
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)
    elif isinstance(value, str):
        yield value


RECORDS = sorted(RESULTS.rglob("*.json")) + sorted(RESULTS.rglob("*.jsonl"))
PRIVATE = re.compile(
    r"^[/~]|^[A-Z]:\\|/(home|root|tmp|Users|work|mnt)/|^(host|hostname|node|user)$"
)


@pytest.mark.parametrize("path", RECORDS, ids=lambda p: str(p.relative_to(RESULTS)))
def test_a_published_record_says_nothing_of_the_machine_it_came_from(path: Path):
    text = path.read_text()
    for record in text.splitlines() if path.suffix == ".jsonl" else [text]:
        assert [s for s in strings(json.loads(record)) if PRIVATE.search(s)] == []


def test_results_hold_records_alone():
    files = [p for p in RESULTS.rglob("*") if p.is_file()]
    kinds = {p.name for p in files if p.parent.name not in ("benchmarks", "figures")}
    assert kinds - {"last.pt", "multirun.yaml"} == {"README.md", "run.json", "metrics.jsonl"}
    runs = {p.parent for p in RESULTS.rglob("run.json")}
    assert all((run / "metrics.jsonl").is_file() for run in runs) and len(runs) >= 25


def toy_shares(lr: float, p: float) -> np.ndarray:
    """The final share of starts at the optimum by seed, read without this project's code."""
    found = {}
    for path in RESULTS.glob("toy/*/seed*/run.json"):
        config = json.loads(path.read_text())["config"]
        if (config["task"]["steps"], config["optim"]["lr"], config["lrd"]["p"]) == (20, lr, p):
            last = (path.parent / "metrics.jsonl").read_text().splitlines()[-1]
            found[config["seed"]] = json.loads(last)["good_basin"]
    return np.array([found[seed] for seed in range(5)])


def toy_seconds(lr: float) -> float:
    """The seconds of all epochs of the runs of Figure 4."""
    total = 0.0
    for path in RESULTS.glob("toy/*/seed*/run.json"):
        if json.loads(path.read_text())["config"]["optim"]["lr"] == lr:
            lines = (path.parent / "metrics.jsonl").read_text().splitlines()
            total += sum(json.loads(line)["seconds"] for line in lines)
    return total


def test_readme_and_docs_print_the_toy_results_of_the_records():
    base, lrd_arm, half = toy_shares(0.1, 1), toy_shares(0.1, 0.5), toy_shares(0.05, 1)
    pages = [README, (ROOT / "docs" / "reproducing.md").read_text()]
    for arm in (base, lrd_arm, half):
        assert all(f"{arm.mean():.1f} %" in page for page in pages)
    for other in (base, half):
        pairs = lrd_arm - other
        low, high = stats.t.interval(0.95, 4, pairs.mean(), stats.sem(pairs))
        assert all(f"{pairs.mean():+.1f} points" in page for page in pages)
        assert all(f"{low:+.1f} to {high:+.1f}" in page for page in pages)


def test_readme_prints_the_runs_and_hours_of_every_experiment():
    """Hours scale with the runs: tables 2 to 4 train the network of table1_cifar10."""
    path = RESULTS / "benchmarks" / "hours.json"
    (table,) = json.loads(path.read_text())["tables"]
    hours = {line["label"].partition(":")[0]: line["spread"]["median"] for line in table["lines"]}
    per_run = hours["table1_cifar10"] / 30
    rows = re.findall(r"^\| .*? \| `(\w+)` \| (\d+) \| ([\d.,]+) \|", README, re.M)
    assert len(rows) == 9
    for name, runs, printed in rows:
        assert int(runs) == len(expand_sweep(name))
        if name == "figure4":
            seconds = toy_seconds(lr=0.1)
            assert printed == f"{seconds / 3600:.2f}"
        else:
            expected = hours.get(name, per_run * int(runs))
            assert printed == f"{float(f'{expected:.2g}'):,.{1 if expected < 10 else 0}f}"


def bench(file: str) -> list[dict[str, Any]]:
    return json.loads((RESULTS / "benchmarks" / file).read_text())["tables"]


def ratio(table: dict[str, Any], label: str) -> str:
    found = [line for line in table["lines"] if line["label"] == label and line["ratios"]]
    return f"{np.median(found[0]['ratios']):.2f}" if found else ""


def test_the_page_of_benchmarks_prints_the_medians_of_the_records():
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    names = {"sgdm": "SGDM", "rmsprop": "RMSprop", "adam": "Adam"}
    names |= {"amsgrad": "AMSGrad", "radam": "RAdam"}
    old = "LRD at d9b9f5f, "
    ways = ["LRD, fused", f"{old}fused", "LRD, snapshot", f"{old}snapshot"]
    ways += ["LRD, snapshot, eager", "naive LRD"]
    tables = {table["title"]: table for table in bench("cpu.json")}
    steps = {table["title"]: table for table in bench("step.json")}
    for name, shown in names.items():
        alone = next(t for k, t in steps.items() if k.startswith(f"{name}: the step alone, ResN"))
        base = next(line for line in alone["lines"] if line["label"] == alone["baseline"])
        cells = [f"{np.median(base['samples']):.1f} ms ({alone['baseline'].split(', ')[1]})"]
        cells += [ratio(alone, way) for way in ways]
        assert f"| {shown} | {' | '.join(cells).strip()} |".replace("  |", " |") in page
        both = []
        for net in ("ResNet-34", "FCNet"):
            table = next(
                t for k, t in steps.items() if k.startswith(f"{name}: zero_grad") and net in k
            )
            both += [ratio(table, way) for way in ways[:4]]
        assert f"| {shown} | {' | '.join(both)} |" in page
    loop = tables["training fcnet on mnist, batch 128, real images"]
    for line in loop["lines"]:
        assert f"| {np.median(line['samples']):,.0f} |" in page
        assert not line["ratios"] or f"| {np.median(line['ratios']):.2f} |" in page
    for title, label in {
        "batches of 128 of mnist, real images": "ours, resident",
        "batches of 128 of cifar10, real images": "ours, resident",
        "batches of 16 of voc_seg, real images, crop 473": "ours, 2 workers",
    }.items():
        line = next(line for line in tables[title]["lines"] if line["label"] == label)
        rate = np.median(line["samples"])
        printed = f"{rate:,.0f}" if rate > 1000 else f"{rate:.1f}"
        assert f"| {printed} | {np.median(line['ratios']):.1f} |" in page
    card = {table["title"]: table for table in bench("step_h200.json")}
    for start, cells in {
        "sgdm: the step alone, ResN": ("fused", "snapshot"),
        "adam: the step alone, ResN": ("fused", "snapshot", "naive LRD"),
        "adam: the step alone, FCNet": ("fused", "snapshot", "naive LRD"),
        "sgdm: zero_grad": ("fused", "snapshot"),
        "adam: zero_grad": ("fused", "snapshot"),
    }.items():
        table = next(t for k, t in card.items() if k.startswith(start))
        base = next(line for line in table["lines"] if line["label"] == "torch, fused")
        median = np.median(base["samples"])
        names_of = [cell if cell == "naive LRD" else f"LRD, {cell}" for cell in cells]
        shown = " | ".join(ratio(table, name) for name in names_of)
        assert f"| {median:.{1 if median > 1 else 2}f} ms | {shown} |" in page, start
    for table in bench("sweep.json"):
        for line in table["lines"]:
            shares = f"{np.median(line['ratios']):.2f}" if line["ratios"] else "1"
            assert f" | {np.median(line['samples']):.1f} | {shares} |" in page, line["label"]
    startup = {
        line["label"]: np.median(line["samples"]) for line in bench("startup.json")[0]["lines"]
    }
    own = startup.pop("import lrd")
    run = startup.pop("run.py --help")
    assert f"at most {max(startup.values()):.2f} s for every command" in page
    assert f"{run:.1f} s for `run.py`" in page and f"`import lrd` takes {own:.2f} s" in page
    hours = dict(re.findall(r"^\| `(\w+)` \| .* \| ([\d.,]+) \|$", page, re.MULTILINE))
    assert len(hours) == 5
    assert all(
        f"| `{name}` |" in README and f"| {value} |" in README for name, value in hours.items()
    )
