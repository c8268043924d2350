"""Matching: everything is read once; commands run what is asked for and nothing else."""

import json
import random
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lrd.analysis import resolve
from lrd.analysis.frames import RunFrames
from lrd.analysis.matching import CellResults, collect_results, explain_mismatches, run_commands
from lrd.analysis.resolve import expand_sweep, sweep_parameters, sweep_values
from lrd.analysis.studies import CellSpec, all_studies
from lrd.config import parallel
from lrd.runs import store
from scripts import compare, plan, table, verdicts
from tests.helpers.finished_runs import finish_with, results_of

TABLES = {name: table for study in all_studies() for name, table in study.tables.items()}


def run_by(commands: list[str]) -> list[tuple[str, frozenset[str]]]:
    """Every run of the commands: its experiment, and its settings."""
    found = []
    for command in commands:
        words = shlex.split(command)
        assert words[:3] == ["python", "run.py", "-m"]
        experiment = words[3].removeprefix("+experiment=")
        for run in expand_sweep(experiment, words[4:]):
            found.append((experiment, frozenset(run) - {f"+experiment={experiment}"}))
    return found


@pytest.mark.parametrize("name", TABLES)
def test_commands_run_exactly_what_they_are_asked_for(name: str):
    cells, draw = TABLES[name].cells(), random.Random(name)
    for share in (0.1, 0.5, 0.9, 1.0):
        asked = [cell for cell in cells if draw.random() < share]
        found = run_by(run_commands(asked, ["scale=0.5"]))
        wanted = [
            (cell.experiment, frozenset([*cell.overrides, f"seed={seed}", "scale=0.5"]))
            for cell in asked
            for seed in sweep_values("seed", sweep_parameters(cell.experiment)["seed"])
        ]
        assert len(found) == len(wanted) and set(found) == set(wanted)


def test_commands_are_few_and_leave_out_what_the_file_says():
    cells = TABLES["table2"].cells()
    assert run_commands(cells) == ["python run.py -m +experiment=table2"]
    assert run_commands([]) == []
    adam = [cell for cell in cells if "optim=adam" in cell.overrides]
    assert run_commands(adam) == ["python run.py -m +experiment=table2 optim=adam"]
    (first, second), rest = adam[:2], adam[2:]
    assert run_commands([first, second]) == [
        "python run.py -m +experiment=table2 optim=adam lrd.p=1,0.1"
    ]
    assert run_commands([*rest, *(c for c in cells if c not in adam)]) == [
        "python run.py -m +experiment=table2 optim=adam lrd.p=0.3,0.5,0.7,0.9",
        "python run.py -m +experiment=table2 optim=sgdm",
    ]


def test_a_setting_that_the_file_does_not_sweep_is_kept_and_quoted_for_a_shell():
    cell = CellSpec("lr_tuned", ("optim=adam", "lrd.p=1", "lr_factor=2", "dataset.holdout=0"))
    (line,) = run_commands([cell], ["model.hidden=[9, 9]"])
    assert line == (
        "python run.py -m +experiment=lr_tuned optim=adam lrd.p=1 lr_factor=2 dataset.holdout=0 "
        "'model.hidden=[9, 9]'"
    )


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often directories are walked, files read and identities hashed."""
    counted: Counter[str] = Counter()

    def count(module: Any, name: str, key: Any) -> None:
        real = getattr(module, name)

        def counting(*arguments: Any, **more: Any) -> Any:
            counted[f"{name} {key(*arguments)}"] += 1
            return real(*arguments, **more)

        monkeypatch.setattr(module, name, counting)

    count(store, "find_runs", str)
    count(store, "_read_metadata", str)
    count(store, "read_complete_lines", str)
    count(resolve, "fingerprint", lambda found: json.dumps(found, sort_keys=True))
    count(
        sys.modules["lrd.config.fingerprint"],
        "fingerprint",
        lambda found: json.dumps(found, sort_keys=True),
    )
    monkeypatch.setattr(
        parallel, "_usable_cores", lambda: 1
    )  # other processes count for themselves
    resolve._resolved.clear()
    return counted


@pytest.mark.parametrize(
    "command, arguments",
    [
        (table, ["quickstart"]),
        (table, ["lr_tuned"]),
        (compare, ["quickstart"]),
        (plan, ["quickstart"]),
        (verdicts, []),
    ],
)
def test_a_command_reads_everything_once(
    command: Any, arguments: list[str], counts: Counter[str], tmp_path: Path, capsys
):
    """One walk of the runs directory; each run.json and metrics.jsonl once."""
    for optim in ("adam", "sgdm"):
        for p in (1, 0.5):
            for seed in (0, 1):
                asked = ("task=digits", f"optim={optim}", f"lrd.p={p}")
                finish_with(tmp_path, 90.0 + seed, *asked, seed=seed)
    counts.clear()
    assert command.main([*arguments, "--runs", str(tmp_path)]) == 0
    hashes = sum(n for what, n in counts.items() if what.startswith("fingerprint "))
    reads = {what: n for what, n in counts.items() if not what.startswith("fingerprint ")}
    assert sum(what.startswith("find_runs ") for what in reads) == 1
    assert sum(what.startswith("_read_metadata ") for what in reads) == 8
    assert max(reads.values()) == 1
    assert hashes == len(resolve._resolved)  # one a configuration, none a run


def test_the_last_of_two_runs_of_one_seed_counts(tmp_path: Path):
    """Under two names, as after a change of run.name."""
    for name, value in (("b", 92.0), ("a", 91.0)):
        finish_with(tmp_path, value, "optim=adam", f"run.name={name}")
    cell = CellSpec("smoke", ("train.epochs=30",))
    found = collect_results([cell], RunFrames(tmp_path))[cell]
    assert found.n == 1 and found.mean == 92.0


def test_a_run_without_its_score_is_one_line(tmp_path: Path):
    run = finish_with(tmp_path, 90.0, "optim=adam")
    for text, line in (('{"epoch": 1}\n', "must have test_accuracy"), ("{\n", "damaged in line 1")):
        (run.folder / "metrics.jsonl").write_text(text)
        cell = CellSpec("smoke", ("train.epochs=30",))
        found = collect_results([cell], RunFrames(tmp_path))[cell]
        with pytest.raises(ValueError, match=line):
            _ = found.mean
        if "damaged" in line:
            with pytest.raises(ValueError, match=line):
                found.curves("train_loss")
        else:
            assert found.curves("train_loss")[0].empty


def test_the_nearest_configurations_are_explained(tmp_path: Path):
    finish_with(tmp_path, 90.0, "optim=adam", "train.epochs=3")
    finish_with(tmp_path, 90.0, "optim=adam", "train.epochs=3", seed=1)
    cells = [CellSpec("quickstart", ("optim=adam", f"lrd.p={p}")) for p in (1, 0.5)]
    results = list(collect_results(cells, RunFrames(tmp_path)).values())
    assert explain_mismatches(results) == ["2 finished with train.epochs=3 instead of 30"]


def test_a_number_that_is_not_finite_is_logged_and_a_missing_one_is_not():
    found: CellResults = results_of({0: [1.0, float("nan"), None, 4.0]})
    curve = found.curves("test_accuracy")[0]
    assert curve.index.tolist() == [1, 2, 4] and curve.isna().tolist() == [False, True, False]
