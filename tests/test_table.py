"""Tables from runs: a cell is filled by exactly the runs of its configuration."""

import csv
import io
import json
import math
import statistics
from pathlib import Path

import layout
import pytest
import table

from lrd.compose import compose, read
from lrd.runs import open_run


def finish(root: Path, value: float, *overrides: str) -> None:
    """A finished run as training would leave it."""
    run = open_run(read(compose([f"run.dir={root}", *overrides])))
    run.write(status="finished", final={"value": value, "epoch": 1})


def show(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    assert table.main(arguments) == 0
    out = capsys.readouterr()
    return out.out, out.err


def cells(text: str) -> dict[tuple[str, str], dict[str, str]]:
    rows = csv.DictReader(io.StringIO(text))
    return {(r["experiment"], r["overrides"]): r for r in rows}


def test_a_cell_is_its_seeds_mean_with_a_t_interval(tmp_path: Path, capsys):
    values = [97.0, 98.0, 99.5]
    for seed, value in enumerate(values):
        finish(tmp_path, value, "task=mnist", "optim=adam", "lrd.p=0.5", f"seed={seed}")
    finish(tmp_path, 90.0, "task=mnist", "optim=adam", "lrd.p=1")
    out, _ = show(capsys, "table1", "--format", "csv", "--runs", str(tmp_path))
    found = cells(out)
    lrd = found["table1_mnist", "optim=adam lrd.p=0.5"]
    half = 4.302652729911275 * statistics.stdev(values) / math.sqrt(3)  # t quantile, 2 degrees
    assert float(lrd["mean"]) == pytest.approx(98.1666667)
    assert float(lrd["half_width_95"]) == pytest.approx(half)
    assert (lrd["n"], lrd["paper"]) == ("3", "98.15")
    base = found["table1_mnist", "optim=adam lrd.p=1"]
    assert (base["mean"], base["half_width_95"], base["n"]) == ("90.0", "", "1")
    assert sum(int(c["n"]) for c in found.values()) == 4


@pytest.mark.parametrize(
    "other",
    ["optim.lr=0.002", "train.epochs=99", "lrd.p=0.49", "train.precision=bf16", "model.hidden=[9]"],
)
def test_runs_of_other_settings_fill_nothing(tmp_path: Path, capsys, other: str):
    finish(tmp_path, 97.0, "task=mnist", "optim=adam", other)
    out, err = show(capsys, "table1", "--format", "csv", "--runs", str(tmp_path))
    assert all(c["n"] == "0" for c in cells(out).values())
    assert "1 finished with" in err and other.split("=")[0] + "=" in err


def test_names_do_not_matter_only_the_resolved_configuration(tmp_path: Path, capsys):
    named = ["task=cifar10", "dataset=cifar100", "model=densenet121", "optim=adam"]
    finish(tmp_path, 70.0, *named, "+optim.amsgrad=true")
    out, _ = show(capsys, "table1", "--format", "csv", "--runs", str(tmp_path))
    assert cells(out)["table1_cifar100", "optim=amsgrad lrd.p=0.5"]["n"] == "1"


def test_unfinished_runs_do_not_count(tmp_path: Path, capsys):
    run = open_run(read(compose([f"run.dir={tmp_path}", "task=mnist"])))
    run.write(status="running", final={"value": 50.0, "epoch": 1})
    out, _ = show(capsys, "table1", "--format", "csv", "--runs", str(tmp_path))
    assert all(c["n"] == "0" for c in cells(out).values())


def test_the_same_table_from_other_settings_says_so(tmp_path: Path, capsys):
    finish(tmp_path, 96.5, "task=mnist", "optim=sgdm", "lrd.p=1", "train.epochs=5")
    out, err = show(capsys, "table1", "train.epochs=5", "--runs", str(tmp_path))
    assert "[train.epochs=5]" in out.splitlines()[0]
    ours = next(line for line in out.splitlines() if line.startswith("MNIST"))
    assert "96.50 / -" in ours
    assert "python run.py -m +experiment=table1_mnist train.epochs=5" in err
    out, err = show(capsys, "table1", "--runs", str(tmp_path))
    assert "1 finished with train.epochs=5 instead of 100" in err


def test_every_number_the_paper_prints_in_table_1_is_shown(tmp_path: Path, capsys):
    """Against the paper's text: Table 1, line by line."""
    out, _ = show(capsys, "table1", "--runs", str(tmp_path))
    for row in (
        "97.82 / 98.21  98.06 / 98.40  97.88 / 98.15  97.88 / 98.51  97.97 / 98.21",
        "95.30 / 95.54  92.71 / 93.68  93.05 / 93.77  93.31 / 93.73  94.24 / 94.61",
        "79.09 / 79.42  70.21 / 74.02  72.55 / 74.34  73.91 / 75.23  71.81 / 73.04",
    ):
        assert f"paper   {row}" in out
    assert out.count("- / -") == 3 * 3 * 5


@pytest.mark.parametrize("form", table.FORMATS)
def test_every_format_shows_every_cell(form: str, tmp_path: Path, capsys):
    finish(tmp_path, 91.25, "task=mnist", "optim=radam", "lrd.p=0.5")
    out, _ = show(capsys, "table1", "--format", form, "--runs", str(tmp_path))
    assert "91.25" in out and "74.02" in out
    if form == "latex":
        assert out.count("&") == 13 * 7 and r"\begin{tabular}{lllccccc}" in out
    if form == "markdown":
        assert all(line.count("|") == 9 for line in out.splitlines() if line.startswith("|"))


def test_a_mistake_in_the_settings_is_one_line(capsys):
    assert table.main(["table1", "train.epochs=0"]) == 2
    assert capsys.readouterr().err == "error: train.epochs must be at least 1, got 0\n"


def test_the_papers_numbers_are_those_of_the_layout():
    numbers = json.loads((Path(layout.__file__).parent / "paper" / "numbers.json").read_text())
    printed = [c.paper for c in layout.TABLES["table1"].cells()]
    flat = [
        v[arm]
        for row in numbers["table1"]["cells"].values()
        for v in row.values()
        for arm in ("base", "lrd")
    ]
    assert printed == flat
