"""Plans: the runs of an experiment, what is done of them, and the time to go by hand."""

import csv
import io
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lrd.analysis.planning import STATES, format_duration
from lrd.analysis.studies.find import find_study
from lrd.config.compose import compose, to_config
from lrd.config.schema import Config
from lrd.runs.lock import run_lock
from lrd.runs.store import Run, RunStore
from scripts import plan

ADAM = ("optim=adam", "lrd.p=0.5")


@cache
def config(*overrides: str) -> Config:
    return to_config(compose(overrides))


def write(root: Path, seconds: list[float], *overrides: str, seed: int = 0, **record: Any) -> Run:
    """A run with an epoch for each of ``seconds``."""
    asked = config(*overrides)
    run = RunStore(replace(asked, seed=seed, run=replace(asked.run, dir=str(root)))).run
    hardware = {"cpu": "A CPU", "cores": 2, "gpu": None}
    run = run.update(**{"status": "finished", "hardware": hardware, **record})
    lines = [json.dumps({"epoch": e, "seconds": s}) + "\n" for e, s in enumerate(seconds, 1)]
    (run.folder / "metrics.jsonl").write_text("".join(lines))
    return run


def show(capsys: pytest.CaptureFixture[str], root: Path, *arguments: str) -> tuple[str, str]:
    assert plan.main([*arguments, "--runs", str(root)]) == 0
    out = capsys.readouterr()
    return out.out, out.err


def rows(out: str) -> dict[str, dict[str, str]]:
    """The table's rows by their cell."""
    _, table, *_ = out.split("\n\n")
    found = {}
    for line in table.splitlines()[1:]:
        words = re.sub(r"(?<=\d) (?=(s|min|h)$)", "_", line).split()
        assert len(words) > 9
        cell, numbers = words[:-9], words[-9:]
        heads = ("runs", *STATES, "epochs to go", "s/epoch", "time to go")
        found[" ".join(cell)] = dict(zip(heads, numbers, strict=True))
    return found


def test_cells_are_counted_by_their_state_and_time_follows_from_measured_epochs(tmp_path, capsys):
    """Adam with LRD on the digits: 30 epochs, of which seed 1 has 10 and seed 2 has none."""
    write(tmp_path, [2.0] * 29 + [50.0], *ADAM)
    write(tmp_path, [4.0] * 10, *ADAM, seed=1, status="interrupted")
    out, _ = show(capsys, tmp_path, "quickstart", "optim=adam")
    found = rows(out)
    assert set(found) == {"lrd.p=1", "lrd.p=0.5"}
    assert found["lrd.p=0.5"] == {
        **{"runs": "3", "finished": "1", "running": "-", "partial": "1", "failed": "-"},
        **{
            "not begun": "1",
            "epochs to go": "50",
            "s/epoch": "2",
            "time to go": "1.7_min",
        },  # 100 s
    }
    base = found["lrd.p=1"]
    assert (base["not begun"], base["epochs to go"]) == ("3", "90")
    assert (base["s/epoch"], base["time to go"]) == ("~2", "3_min")  # 180 s
    assert "6 runs: 1 finished, 1 partial, 4 not begun\n" in out
    assert "to go: 4.7 min, one run at a time\n" in out
    assert out.endswith("epochs measured on A CPU (2 cores)\n")


def test_the_median_of_a_cells_own_epochs_goes_before_those_of_its_kind(tmp_path, capsys):
    write(tmp_path, [1.0, 3.0, 8.0], *ADAM, "train.epochs=3")
    write(tmp_path, [90.0, 90.0, 90.0], "optim=adam", "lrd.p=0.3", "train.epochs=3")
    out, _ = show(capsys, tmp_path, "quickstart", "optim=adam", "train.epochs=3", "seed=range(0,4)")
    assert rows(out)["lrd.p=0.5"]["s/epoch"] == "3"
    assert rows(out)["lrd.p=1"]["s/epoch"] == "~49"  # of 1, 3, 8, 90, 90 and 90


@pytest.mark.parametrize(
    "seconds, text",
    [(0.03, "0.03 s"), (99, "99 s"), (100, "1.7 min"), (5994, "100 min"), (6000, "1.7 h")]
    + [(9.96, "10 s"), (36e3, "10 h"), (3.6e6, "1000 h"), (0, "-")],
)
def test_a_time_is_in_seconds_minutes_or_hours(seconds: float, text: str):
    assert format_duration(seconds) == text


def test_what_is_known_is_the_least_and_csv_has_every_number(tmp_path: Path, capsys):
    """SGDM has 30 epochs to go for each of two seeds and arms, at 3 s; nobody timed Adam's."""
    write(tmp_path, [3.0], "task=digits", "optim=sgdm", "lrd.p=1", seed=9)
    asked = ("quickstart", "optim=sgdm,adam", "seed=0,1")
    out, _ = show(capsys, tmp_path, *asked)
    assert "to go: at least 6 min, one run at a time; unknown for 4 runs\n" in out
    out, _ = show(capsys, tmp_path, *asked, "--format", "csv")
    read = {row["overrides"]: row for row in csv.DictReader(io.StringIO(out))}
    sgdm, adam = read["optim=sgdm lrd.p=0.5"], read["optim=adam lrd.p=1"]
    assert (sgdm["seconds_to_go"], sgdm["seconds_per_epoch"]) == ("180.0", "3.0")
    assert (adam["seconds_to_go"], adam["epochs_to_go"], adam["not_begun"]) == ("", "60", "2")


def test_csv_has_the_seeds_of_every_claim_that_reads_the_experiment(tmp_path: Path, capsys):
    """The largest n of a claim's parts, as lrd_paper.yaml has them."""
    out, _ = show(capsys, tmp_path, "table1_mnist", "quickstart", "--format", "csv")
    found = list(csv.DictReader(io.StringIO(out)))
    needs = [{n: v for n, v in row.items() if n.startswith("seeds_") and v} for row in found]
    here = {"seeds_C1": "12", "seeds_C2": "5", "seeds_C12": "6", "seeds_C13": "12", "seeds_R1": "5"}
    assert needs == [here] * 10 + [{}] * 10


@pytest.mark.parametrize(
    "other",
    [
        ("task=digits", "optim=sgdm"),
        ("task=mnist", "optim=adam"),
        ("optim=adam", "model.hidden=[9]"),
        ("optim=adam", "train.batch_size=64"),
        ("optim=adam", "dataset.holdout=100"),
        ("optim=adam", "train.max_steps=5"),  # no whole epoch
    ],
)
def test_epochs_of_another_kind_say_nothing(tmp_path: Path, capsys, other: tuple[str, ...]):
    write(tmp_path, [1.0], *other)
    out, err = show(capsys, tmp_path, "quickstart", "optim=adam", "seed=0")
    assert all(row["s/epoch"] == row["time to go"] == "?" for row in rows(out).values())
    assert "to go: unknown for 2 runs\n" in out
    assert err.count("run.py") == 1


def test_what_is_unknown_comes_with_the_command_that_times_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], cli: Callable[..., Any]
):
    """One a kind, and it does."""
    where = f"run.dir={tmp_path}"
    asked = ("quickstart", "optim=adam,sgdm", "seed=4,5", "scale=0.1", where)
    out, err = show(capfd, tmp_path, *asked)
    assert out.startswith("quickstart [optim=adam,sgdm seed=4,5 scale=0.1")
    assert "unknown for 8 runs" in out
    commands = [line.strip() for line in err.splitlines() if "run.py" in line]
    assert commands == [
        f"python run.py -m +experiment=quickstart {o} lrd.p=1 {where} seed=4 train.epochs=1"
        for o in ("optim=adam", "optim=sgdm")
    ]
    for command in commands:
        done = cli(*shlex.split(command)[2:])
        assert done.status == 0, done.err
    out, err = show(capfd, tmp_path, *asked)
    assert not err and "unknown for" not in out
    assert all(row["epochs to go"] == "6" for row in rows(out).values())  # two of 3 epochs


def test_scale_shortens_a_plan_and_says_so(tmp_path: Path, capsys):
    """MNIST: 15 % of 100 epochs."""
    write(tmp_path, [60.0] * 15, "task=mnist", "optim=radam", "lrd.p=1", "scale=0.15")
    out, _ = show(capsys, tmp_path, "table1_mnist", "optim=radam", "scale=0.15")
    assert out.splitlines()[0].endswith("scale=0.15 (15 % of the epochs)]")
    found = rows(out)
    assert found["lrd.p=1"]["finished"] == "1" and found["lrd.p=1"]["epochs to go"] == "30"
    assert (
        found["lrd.p=0.5"]["epochs to go"] == "45" and found["lrd.p=0.5"]["time to go"] == "45_min"
    )


def test_a_run_that_a_process_holds_is_running_and_a_failed_one_is_not_to_do(tmp_path, capsys):
    run = write(tmp_path, [2.0] * 5, *ADAM, seed=0, status="running")
    write(tmp_path, [2.0] * 5, *ADAM, seed=1, status="failed")
    broken = write(tmp_path, [2.0] * 5, *ADAM, seed=2)
    (broken.folder / "run.json").write_text("{")
    with run_lock(run.folder):
        out, _ = show(capsys, tmp_path, "quickstart", *ADAM)
    (row,) = rows(out).values()
    assert row["running"] == "1" and row["failed"] == "1" and row["partial"] == "1"
    assert row["epochs to go"] == "50"


def test_a_cell_that_is_swept_twice_is_counted_once(tmp_path: Path, capsys):
    """p = 1 and p = 1.0 are one configuration, and where a run is computed is no part of it."""
    asked = ("optim=adam", "lrd.p=1,1.0", "train.device=cpu,auto", "seed=0,1")
    out, _ = show(capsys, tmp_path, "quickstart", *asked)
    assert "\n2 runs: 2 not begun\n" in out


@pytest.mark.parametrize(
    "name, number", [("table2", 36), ("figure10", 36), ("table4", 15), ("smoke", 8)]
)
def test_a_plan_is_the_whole_experiment(name: str, number: int, tmp_path: Path, capsys):
    out, err = show(capsys, tmp_path, name)
    assert f"\n{number} runs: {number} not begun\n" in out
    kinds = {"table2": 2, "figure10": 2, "table4": 1, "smoke": 4}
    experiment = {"figure10": "table2"}.get(name, name)  # the figure is of the table's runs
    assert err.count(f"python run.py -m +experiment={experiment} ") == kinds[name]


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["nothing"], "nothing must be a study (lr_control, "),
        (["quickstart", "lrd.p=2"], "lrd.p must be in (0, 1]"),
        (["quickstart", "seed=first"], "seed must be whole numbers, got first"),
        (["quickstart", "lrd.q=1"], "unknown setting lrd.q"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], line: str, capsys):
    assert plan.main(arguments) == 2
    out = capsys.readouterr()
    assert out.err.startswith("error: ") and line in out.err and out.err.count("\n") == 1
    assert not out.out


def test_damaged_metrics_are_named(tmp_path: Path, capsys):
    run = write(tmp_path, [2.0], *ADAM, status="interrupted")
    (run.folder / "metrics.jsonl").write_text("{\n")
    assert plan.main(["quickstart", *ADAM, "--runs", str(tmp_path)]) == 2
    assert "metrics.jsonl is damaged in line 1" in capsys.readouterr().err


def test_the_seeds_that_claims_need_are_printed_before_a_run(tmp_path: Path, capsys):
    """C5 plans 12 seeds of Table 3, and the experiment asks for 3."""
    assert plan.main(["table3", "--runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    (line,) = (line for line in out.splitlines() if line.startswith("C5 "))
    rule = find_study("C5")[0].claims[0].rules[0]
    assert str(rule) in line and line.endswith("the published numbers, sd 0.2")
    n, chance = line.removesuffix("the published numbers, sd 0.2").split()[-2:]
    assert int(n) == rule.n == 12 and 0.8 <= float(chance) < 1
    assert out.endswith(
        "3 seeds are asked for here; all that the claims need:\n"
        "python run.py -m +experiment=table3 'seed=range(0,12)'\n"
    )
    assert plan.main(["table3", "seed=range(0,12)", "--runs", str(tmp_path)]) == 0
    assert "all that the claims need" not in capsys.readouterr().out
    assert plan.main(["quickstart", "--runs", str(tmp_path)]) == 0
    assert "that the claims need" not in capsys.readouterr().out
