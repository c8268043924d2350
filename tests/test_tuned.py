"""The grid of rates: chosen by held-out samples alone, tested once, and every step named."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import layout
import pytest
import sweep
import table
import tuned
from cells import Filled, fill
from tabular import Cell, Table

from lrd.config.compose import compose, to_config
from lrd.config.schema import Config
from lrd.runs.store import open_run

FACTORS = (0.125, 0.25, 0.5, 1, 2, 4, 8)
BASE, LRD = "lrd.p=1", "lrd.p=0.5"


@cache
def config(*overrides: str) -> Config:
    return to_config(compose(overrides))


def write(root: Path, seed: int, overrides: tuple[str, ...], **record: Any) -> None:
    asked = config(*overrides)
    open_run(replace(asked, seed=seed, run=replace(asked.run, dir=str(root)))).write(**record)


def held_out(
    root: Path, p: str, scores: Sequence[float | None], seed: int = 0, **record: Any
) -> None:
    """Runs of Adam's row of the grid; None: one that failed."""
    for factor, value in zip(FACTORS, scores, strict=True):
        asked = ("task=digits", "optim=adam", p, f"optim.lr={0.001 * factor!r}")
        done: dict[str, Any] = {"status": "failed"}
        if value is not None:
            done = {"status": "finished", "final": {"value": value, "epoch": 1}}
        write(root, seed, (*asked, "dataset.holdout=287"), **done, **record)


@pytest.fixture
def adam(monkeypatch: pytest.MonkeyPatch) -> Table:
    """The two rows of Adam alone."""
    grid = layout.TABLES["lr_tuned"]
    grid = replace(grid, rows=tuple(row for row in grid.rows if row[0][0] == "Adam"))
    monkeypatch.setitem(layout.TABLES, "lr_tuned", grid)
    return grid


def choice(grid: Table, root: Path, row: int = 0) -> Filled | None:
    filled = fill(grid.cells(), str(root), ())
    return tuned.chosen([cell for (cell,) in grid.rows[row][1]], filled)


def factor(best: Filled | None) -> str | None:
    return best.cell.overrides[-1] if best else None


UP_TO_2 = [90.0, 92.0, 94.0, 95.0, 96.0, 91.0, 80.0]


def test_the_best_mean_is_chosen_once_every_rate_has_a_run(adam: Table, tmp_path: Path):
    held_out(tmp_path, BASE, UP_TO_2)
    assert factor(choice(adam, tmp_path)) == "lr_factor=2" and choice(adam, tmp_path, 1) is None
    held_out(tmp_path, BASE, [90, 92, 96.5, 95, 93, 91, 80], seed=1)  # 0.5: 95.25, 2: 94.5, 1: 95
    assert factor(choice(adam, tmp_path)) == "lr_factor=0.5"


def test_of_equal_scores_the_lowest_rate_is_chosen(adam: Table, tmp_path: Path):
    held_out(tmp_path, LRD, [90, 95, 95, 95, 94, 93, 92])
    assert factor(choice(adam, tmp_path, 1)) == "lr_factor=0.25"


def test_a_rate_with_a_run_that_failed_is_not_chosen(adam: Table, tmp_path: Path):
    held_out(tmp_path, BASE, UP_TO_2)
    held_out(tmp_path, BASE, [90, 91, 92, 93, None, None, None], seed=1)
    assert factor(choice(adam, tmp_path)) == "lr_factor=1"


def test_means_are_over_the_seeds_that_all_rates_have(adam: Table, tmp_path: Path):
    held_out(tmp_path, BASE, UP_TO_2)
    asked = ("task=digits", "optim=adam", BASE, "optim.lr=0.001", "dataset.holdout=287")
    write(tmp_path, 1, asked, status="finished", final={"value": 99.9, "epoch": 1})
    assert factor(choice(adam, tmp_path)) == "lr_factor=2"


def test_of_a_score_to_be_minimized_the_least_is_chosen(adam: Table, tmp_path: Path):
    score = {"name": "holdout_loss", "maximize": False, "unit": ""}
    held_out(tmp_path, BASE, UP_TO_2, score=score)
    assert factor(choice(adam, tmp_path)) == "lr_factor=8"


def test_the_test_set_has_no_say(adam: Table, tmp_path: Path):
    """Runs of the same rates on the test set, of which another is best."""
    held_out(tmp_path, BASE, UP_TO_2)
    for value in FACTORS:
        asked = ("task=digits", "optim=adam", BASE, f"optim.lr={0.001 * value!r}")
        final = {"value": 99.0 if value == 0.125 else 50.0, "epoch": 1}
        write(tmp_path, 0, asked, status="finished", final=final)
    assert factor(choice(adam, tmp_path)) == "lr_factor=2"


def test_the_settings_of_a_test_hold_no_samples_out():
    assert tuned.tested(["dataset.holdout=5000", "task=cifar10"]) == ["task=cifar10"]
    grid = layout.TABLES["lr_tuned"].cells()
    assert all(config(*of(cell)).dataset["holdout"] == 287 for cell in grid[:2])
    cell = Cell("lr_tuned", (*grid[0].overrides, "dataset.holdout=0"))
    assert config(*of(cell)).dataset["holdout"] == 0


def of(cell: Cell) -> tuple[str, ...]:
    return (f"+experiment={cell.experiment}", *cell.overrides)


def test_the_table_names_the_rates_and_then_what_the_test_set_says(adam, tmp_path: Path, capsys):
    def show(*more: str) -> tuple[str, list[str]]:
        assert table.main(["lr_tuned", "--runs", str(tmp_path), *more]) == 0
        out, err = capsys.readouterr()
        return out, [line.strip() for line in err.splitlines() if "run.py" in line]

    held_out(tmp_path, BASE, UP_TO_2)
    out, commands = show()
    assert "Test at the rates" not in out
    here = f"run.dir={tmp_path}"
    assert commands == [f"python run.py -m +experiment=lr_tuned optim=adam lrd.p=0.5 {here}"]

    held_out(tmp_path, LRD, [90, 91, 92, 93, 94, 95, 96])
    out, commands = show()
    after = "python run.py -m +experiment=lr_tuned optim=adam"
    assert commands == [
        f"{after} lrd.p=1 lr_factor=2 dataset.holdout=0 {here}",
        f"{after} lrd.p=0.5 lr_factor=8 dataset.holdout=0 {here}",
    ]
    line = next(ln for ln in out.splitlines() if ln.startswith("Adam") and "edge" in ln)
    assert line.split()[1:8] == ["0.002", "0.008", "(edge", "of", "the", "grid)", "ours"]

    for command, base in zip(commands, (97.0, 98.5), strict=True):
        for run in sweep.cells("lr_tuned", shlex.split(command)[4:]):
            (seed,) = (int(o.partition("=")[2]) for o in run if o.startswith("seed="))
            final = {"value": base + seed, "epoch": 1}
            settings = tuple(o for o in run if not o.startswith("seed="))
            write(tmp_path, seed, settings, status="finished", final=final)
    out, commands = show()
    assert not commands and "99.00 / 100.50" in out  # five seeds, 2 more than the first
    differences = out.partition("Differences")[2]
    assert "+1.50" in differences and differences.split()[-1] == "5"
    out, _ = show("--format", "csv")
    lines = [line for line in out.splitlines() if "dataset.holdout=0" in line]
    assert len(out.splitlines()) == 1 + 14 + 2 and len(lines) == 2
