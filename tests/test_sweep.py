"""Sweeps: what a command runs, and the commands that run what is asked for and nothing else."""

import random
import shlex
from itertools import product

import pytest
import sweep
from layout import TABLES
from tabular import Cell

P = ("1", "0.1", "0.3", "0.5", "0.7", "0.9")


def test_a_sweep_is_the_product_of_its_values_in_their_order():
    found = sweep.cells("table2")
    asked = product(("adam", "sgdm"), P, "012")
    assert found == [
        (f"optim={o}", f"lrd.p={p}", f"seed={s}", "+experiment=table2") for o, p, s in asked
    ]


def test_what_is_given_on_the_command_line_replaces_the_files_sweep():
    found = sweep.cells("table2", ["optim=adam", "seed=range(3,5)", "scale=0.15"])
    asked = product(P, (3, 4))
    assert found == [
        ("optim=adam", f"lrd.p={p}", f"seed={s}", "+experiment=table2", "scale=0.15")
        for p, s in asked
    ]


def test_values_are_read_in_hydras_grammar():
    assert sweep.values("seed", "range(0,3)") == ["0", "1", "2"]
    assert sweep.values("lrd.p", "1,0.5") == ["1", "0.5"]
    assert sweep.values("regularizer", "[sd,nl]") == ["[sd,nl]"]
    assert set(sweep.values("optim", "glob(r*)")) == {"radam", "rmsprop", "rmsprop_authors"}


@pytest.mark.parametrize(
    "experiment, overrides, line",
    [
        ("nothing", [], "experiment=nothing is no choice of experiment; there are: all_cl"),
        ("table2", ["seed=range(3"], "cannot read 'seed=range(3' as KEY=VALUE"),
        ("table2", ["lrd.p=interval(0,1)"], "BasicSweeper does not support sweep type"),
    ],
)
def test_what_is_no_sweep_is_one_line(experiment: str, overrides: list[str], line: str):
    with pytest.raises(ValueError) as error:
        sweep.cells(experiment, overrides)
    assert line in str(error.value) and "\n" not in str(error.value)


def run_by(commands: list[str]) -> list[tuple[str, frozenset[str]]]:
    """Every run of the commands: its experiment, and its settings."""
    found = []
    for command in commands:
        words = shlex.split(command)
        assert words[:3] == ["python", "run.py", "-m"]
        experiment = words[3].removeprefix("+experiment=")
        for run in sweep.cells(experiment, words[4:]):
            found.append((experiment, frozenset(run) - {f"+experiment={experiment}"}))
    return found


@pytest.mark.parametrize("name", TABLES)
def test_commands_run_exactly_what_they_are_asked_for(name: str):
    cells, draw = TABLES[name].cells(), random.Random(name)
    for share in (0.1, 0.5, 0.9, 1.0):
        asked = [cell for cell in cells if draw.random() < share]
        found = run_by(sweep.commands(asked, ["scale=0.5"]))
        wanted = [
            (cell.experiment, frozenset([*cell.overrides, f"seed={seed}", "scale=0.5"]))
            for cell in asked
            for seed in sweep.values("seed", sweep.swept(cell.experiment)["seed"])
        ]
        assert len(found) == len(wanted) and set(found) == set(wanted)


def test_commands_are_few_and_leave_out_what_the_file_says():
    cells = TABLES["table2"].cells()
    assert sweep.commands(cells) == ["python run.py -m +experiment=table2"]
    assert sweep.commands([]) == []
    adam = [cell for cell in cells if "optim=adam" in cell.overrides]
    assert sweep.commands(adam) == ["python run.py -m +experiment=table2 optim=adam"]
    (first, second), rest = adam[:2], adam[2:]
    assert sweep.commands([first, second]) == [
        "python run.py -m +experiment=table2 optim=adam lrd.p=1,0.1"
    ]
    assert sweep.commands([*rest, *(c for c in cells if c not in adam)]) == [
        "python run.py -m +experiment=table2 optim=adam lrd.p=0.3,0.5,0.7,0.9",
        "python run.py -m +experiment=table2 optim=sgdm",
    ]


def test_a_setting_that_the_file_does_not_sweep_is_kept_and_quoted_for_a_shell():
    cell = Cell("lr_tuned", ("optim=adam", "lrd.p=1", "lr_factor=2", "dataset.holdout=0"))
    (line,) = sweep.commands([cell], ["model.hidden=[9, 9]"])
    assert line == (
        "python run.py -m +experiment=lr_tuned optim=adam lrd.p=1 lr_factor=2 dataset.holdout=0 "
        "'model.hidden=[9, 9]'"
    )
