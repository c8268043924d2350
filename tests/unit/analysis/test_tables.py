"""Tables from runs: exact matches, contrasts, formats, and the test at chosen learning rates."""

import csv
import io
import math
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lrd.analysis.command_line import REPORT_FORMATS
from lrd.analysis.frames import RunFrames
from lrd.analysis.matching import CellResults, collect_results
from lrd.analysis.resolve import expand_sweep, resolve_cell
from lrd.analysis.studies import TableSpec, all_studies
from lrd.analysis.studies.find import find_study
from lrd.analysis.tables import best_cell, table_parts
from scripts import table
from tests.helpers.finished_runs import PROVENANCE, begin, configured, finish, finish_with

TABLES: Any = {name: table for study in all_studies() for name, table in study.tables.items()}


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
        finish_with(tmp_path, value, "task=mnist", "optim=adam", "lrd.p=0.5", seed=seed)
    finish_with(tmp_path, 90.0, "task=mnist", "optim=adam", "lrd.p=1")
    out, _ = show(capsys, "table1", "--format", "csv", "--runs", str(tmp_path))
    found = cells(out)
    lrd = found["table1_mnist", "optim=adam lrd.p=0.5"]
    half = 4.302652729911275 * statistics.stdev(values) / math.sqrt(3)  # t quantile, 2 degrees
    assert float(lrd["mean"]) == pytest.approx(98.1666667)
    assert float(lrd["half_width_95"]) == pytest.approx(half)
    assert (lrd["n"], lrd["published"]) == ("3", "98.15")
    base = found["table1_mnist", "optim=adam lrd.p=1"]
    assert (base["mean"], base["half_width_95"], base["n"]) == ("90.0", "", "1")
    assert sum(int(c["n"]) for c in found.values()) == 4


@pytest.mark.parametrize(
    "other",
    ["optim.lr=0.002", "train.epochs=99", "lrd.p=0.49", "train.precision=bf16", "model.hidden=[9]"],
)
def test_runs_of_other_settings_fill_nothing(tmp_path: Path, capsys, other: str):
    finish_with(tmp_path, 97.0, "task=mnist", "optim=adam", other)
    out, err = show(capsys, "table1", "--format", "csv", "--runs", str(tmp_path))
    assert all(c["n"] == "0" for c in cells(out).values())
    assert "1 finished with" in err and other.split("=")[0] + "=" in err


def test_names_do_not_matter_only_the_resolved_configuration(tmp_path: Path, capsys):
    named = ["task=cifar10", "dataset=cifar100", "model=densenet121", "optim=adam"]
    finish_with(tmp_path, 70.0, *named, "+optim.amsgrad=true")
    out, _ = show(capsys, "table1", "--format", "csv", "--runs", str(tmp_path))
    assert cells(out)["table1_cifar100", "optim=amsgrad lrd.p=0.5"]["n"] == "1"


def test_unfinished_runs_do_not_count(tmp_path: Path, capsys):
    run = begin(tmp_path, 0, "task=mnist")
    run.update(status="running")
    out, _ = show(capsys, "table1", "--format", "csv", "--runs", str(tmp_path))
    assert all(c["n"] == "0" for c in cells(out).values())


def test_the_same_table_from_other_settings_says_so(tmp_path: Path, capsys):
    finish_with(tmp_path, 96.5, "task=mnist", "optim=sgdm", "lrd.p=1", "train.epochs=5")
    out, err = show(capsys, "table1", "train.epochs=5", "--runs", str(tmp_path))
    assert "[train.epochs=5]" in out.splitlines()[0]
    ours = next(line for line in out.splitlines() if line.startswith("MNIST"))
    assert "96.50 / -" in ours
    given = f"train.epochs=5 run.dir={tmp_path}"
    assert f"python run.py -m +experiment=table1_mnist optim=sgdm lrd.p=0.5 {given}\n" in err
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
        assert f"published  {row}" in out
    assert out.count("- / -") == 3 * 3 * 5


# The paper's Tables 2 to 4, line by line, from its text.
PRINTED = {
    "table2": """
1 (no LRD) 93.05 95.30
0.1 93.32 94.32
0.3 93.93 95.39
0.5 93.77 95.54
0.7 93.50 95.42
0.9 93.35 95.26""",
    "table3": """
No regularization 93.05 95.30
Standard dropout (SD) 94.05 95.33
Noisy gradient (NG) 93.70 95.00
Noisy label (NL) 92.59 94.61
Learning rate dropout (LRD) 93.77 95.54
LRD and SD 94.73 95.58
LRD and NG 93.92 95.26""",
    "table4": """
Adam 93.05 94.05 94.08 93.34 92.89""",
}
COLUMNS = {
    "table2": ["p", "", "Adam", "SGDM"],
    "table3": ["Regularization", "", "Adam", "SGDM"],
    "table4": ["p_sd", "", "1 (no SD)", "0.9", "0.8", "0.7", "0.6"],
}


@pytest.mark.parametrize("name", PRINTED)
def test_every_number_the_paper_prints_in_tables_2_to_4_is_shown(name: str, tmp_path, capsys):
    out, err = show(capsys, name, "--format", "markdown", "--runs", str(tmp_path))
    cells_only = out.partition("\nDifferences")[0].splitlines()
    head, _, *lines = [line[2:-2].split(" | ") for line in cells_only if line[:1] == "|"]
    assert head == COLUMNS[name]
    printed = []
    for ours, published in zip(lines[::2], lines[1::2], strict=True):
        assert (ours[1], published[1]) == ("ours", "published") and set(ours[2:]) == {"-"}
        printed.append(" ".join([ours[0], *published[2:]]))
    assert printed == PRINTED[name].strip().splitlines()
    assert f"\n  python run.py -m +experiment={name} run.dir={tmp_path}\n" in err


def test_the_columns_of_the_tables_are_filled_by_the_cells_that_are_meant(tmp_path, capsys):
    """Commands of a user's own, which name no experiment and no arm."""
    here = ("task=cifar10", "optim=adam")
    finish_with(tmp_path, 91.0, *here, "lrd.p=1")
    finish_with(tmp_path, 92.0, *here, "lrd.p=0.3")
    finish_with(tmp_path, 93.0, *here, "lrd.p=1", "regularizer=[sd]", "regularizer.sd.p_sd=0.7")
    finish_with(tmp_path, 94.0, *here, "lrd.p=0.5", "regularizer=ng")
    found = {}
    for name in ("table2", "table3", "table4"):
        out, _ = show(capsys, name, "--format", "csv", "--runs", str(tmp_path))
        found[name] = {o: c["mean"] for (_, o), c in cells(out).items() if c["n"] != "0"}
    assert found == {
        "table2": {"optim=adam lrd.p=1": "91.0", "optim=adam lrd.p=0.3": "92.0"},
        "table3": {"optim=adam +arm=base": "91.0", "optim=adam +arm=lrd_ng": "94.0"},
        "table4": {"+arm=base": "91.0", "+arm=sd_0.7": "93.0"},
    }


def test_the_papers_rmsprop_with_lrd_stands_beside_the_authors_optimizer(tmp_path, capsys):
    out, _ = show(capsys, "rmsprop_decay", "--format", "csv", "--runs", str(tmp_path))
    assert {o: c["published"] for (_, o), c in cells(out).items()} == {
        "optim=rmsprop lrd.p=1": "92.71",
        "optim=rmsprop lrd.p=0.5": "",
        "optim=rmsprop_authors lrd.p=1": "",
        "optim=rmsprop_authors lrd.p=0.5": "93.68",
    }


def test_the_commands_fill_exactly_the_empty_cells(tmp_path: Path, capsys):
    made = [("adam", "1"), ("adam", "0.3"), ("sgdm", "0.9")]
    for optim, p in made:
        finish_with(tmp_path, 90.0, "+experiment=table2", f"optim={optim}", f"lrd.p={p}")
    _, err = show(capsys, "table2", "--runs", str(tmp_path))
    commands = [line.strip() for line in err.splitlines() if "run.py" in line]
    runs = [run for line in commands for run in expand_sweep("table2", shlex.split(line)[4:])]
    pairs = {(run[0], run[1]) for run in runs}
    assert len(pairs) == 9 and len(runs) == 27
    assert not pairs & {(f"optim={optim}", f"lrd.p={p}") for optim, p in made}
    for run in runs:
        if "seed=0" in run:
            finish_with(tmp_path, 91.0, *run)
    out, err = show(capsys, "table2", "--format", "csv", "--runs", str(tmp_path))
    assert not err and {cell["n"] for cell in cells(out).values()} == {"1"}


def test_runs_that_failed_are_counted_apart(tmp_path: Path, capsys):
    here = ("task=cifar10", "optim=adam", "lrd.p=0.1")
    finish_with(tmp_path, 90.0, *here)
    begin(tmp_path, 1, *here).update(status="failed", error="train_loss is nan")
    out, _ = show(capsys, "table2", "--runs", str(tmp_path))
    (line,) = (line for line in out.splitlines() if "failed" in line)
    assert line.split() == ["n", "1", "(1", "failed)", "-"]
    out, _ = show(capsys, "table2", "--format", "csv", "--runs", str(tmp_path))
    cell = cells(out)["table2", "optim=adam lrd.p=0.1"]
    assert (cell["n"], cell["failed"], cell["mean"]) == ("1", "1", "90.0")


def test_differences_are_paired_by_seed(tmp_path: Path, capsys):
    """LRD less base by hand: 1, 2, 3 at seeds 0 to 2; seed 3 has no pair."""
    for seed, (base, half, lrd) in enumerate([(90, 92, 91), (91, 92, 93), (92, 92, 95)]):
        for arm, value in (("base", base), ("base_half", half), ("lrd", lrd)):
            asked = ("+experiment=lr_control", "optim=adam", f"+arm={arm}")
            finish_with(tmp_path, value, *asked, seed=seed)
    finish_with(tmp_path, 10.0, "+experiment=lr_control", "optim=adam", "+arm=lrd", seed=3)
    out, err = show(capsys, "lr_control", "optim=adam", "--runs", str(tmp_path))
    one, two = (f"{4.302652729911275 * sd / math.sqrt(3):.2f}" for sd in (1, 2))
    lines = [line.split() for line in out.partition("Differences")[2].splitlines()]
    start = next(i for i, line in enumerate(lines) if line[:2] == ["LRD", "p"])
    assert lines[start] == "LRD p = 0.5 - base +2.00".split() + [one, "3"]
    assert lines[start + 1][-3:] == ["+1.00", one, "3"]  # half the rate less base: 2, 1, 0
    assert lines[start + 2][-3:] == ["+1.00", two, "3"]  # -1, 1, 3
    assert lines[start + 3][-3:] == ["-", "-", "-"]  # LRD rescaled has no run
    assert err == (
        "\nTo run the missing configurations:\n"
        "  python run.py -m +experiment=lr_control optim=adam +arm=lrd_rescaled "
        f"run.dir={tmp_path}\n"
    )
    out, _ = show(capsys, "lr_control", "optim=adam", "--format", "csv", "--runs", str(tmp_path))
    base, half_rate, lrd, rescaled = csv.DictReader(io.StringIO(out))
    width = 4.302652729911275 / math.sqrt(3)  # of differences whose standard deviation is 1
    for row, end, mean, sd, other in (
        (half_rate, "", 1, 1, base),
        (lrd, "", 2, 1, base),
        (lrd, "_2", 1, 2, half_rate),
    ):
        numbers = [float(row[f"difference{name}{end}"]) for name in ("", "_low", "_high")]
        assert numbers == pytest.approx([mean, mean - sd * width, mean + sd * width])
        assert row[f"difference_n{end}"] == "3"
        assert row[f"difference_from{end}"] == other["overrides"]
    assert (rescaled["difference"], rescaled["difference_n"]) == ("", "0")
    assert not any(value for name, value in base.items() if name.startswith("difference"))


def test_scale_is_said_in_every_format(tmp_path: Path, capsys):
    finish_with(tmp_path, 90.5, "task=cifar10", "optim=sgdm", "lrd.p=0.7", "train.epochs=30")
    for form in REPORT_FORMATS:
        asked = ("table2", "scale=0.15", "--format", form, "--runs", str(tmp_path))
        out, err = show(capsys, *asked)
        percent = r"15 \%" if form == "latex" else "15 %"
        said = "sgdm lrd.p=0.7 scale=0.15" if form == "csv" else f"[scale=0.15 ({percent} of the"
        assert said in out and "90.5" in out
        assert err.count(f"scale=0.15 run.dir={tmp_path}\n") == err.count("run.py") == 2


def test_settings_that_make_cells_the_same_are_refused(capsys):
    assert table.main(["table3", "lrd.p=0.5"]) == 2
    said = "cells must be different configurations, got lrd.p=0.5: two are the same"
    assert capsys.readouterr().err == f"error: {said}\n"


@pytest.mark.parametrize("form", REPORT_FORMATS)
def test_every_format_shows_every_cell(form: str, tmp_path: Path, capsys):
    finish_with(tmp_path, 91.25, "task=mnist", "optim=radam", "lrd.p=0.5")
    out, _ = show(capsys, "table1", "--format", form, "--runs", str(tmp_path))
    assert "91.25" in out and "74.02" in out
    if form == "latex":
        assert out.count("&") == 7 * 7 + 16 * 3 and r"\begin{tabular}{lllccccc}" in out
    if form == "markdown":
        counts = [line.count("|") for line in out.splitlines() if line.startswith("|")]
        assert counts == [9] * 8 + [5] * 17


def test_an_estimate_is_one_cell_with_the_better_arm_in_bold(tmp_path: Path, capsys):
    """SGDM gains 1, give or take 0.1; Adam 0.1, give or take 1, whose interval has 0; a loss
    rises."""
    for seed, noise in enumerate((-0.1, 0.0, 0.1)):
        for optim, gain in (("sgdm", 1 + noise), ("adam", 0.1 + 10 * noise)):
            asked = ("task=digits", f"optim={optim}")
            finish_with(tmp_path, 90.0 + noise, *asked, "lrd.p=1", seed=seed)
            finish_with(tmp_path, 90.0 + noise + gain, *asked, "lrd.p=0.5", seed=seed)
    begin(tmp_path, 3, "task=digits", "optim=sgdm", "lrd.p=1").update(status="failed", error="nan")
    finish_with(tmp_path, 80.0, "task=digits", "optim=radam", "lrd.p=1")
    score = {"name": "test_loss", "maximize": False, "unit": ""}
    for seed in range(3):
        asked = ("task=digits", "optim=amsgrad")
        finish_with(tmp_path, 1.0 + seed, *asked, "lrd.p=1", seed=seed, score=score)
        finish_with(tmp_path, 2.0 + 1.01 * seed, *asked, "lrd.p=0.5", seed=seed, score=score)
    half, wide = (4.302652729911275 * sd / math.sqrt(3) for sd in (0.1, 1.1))
    out, _ = show(capsys, "quickstart", "--format", "markdown", "--runs", str(tmp_path))
    first, second = out.split("Differences")
    (row,) = (line for line in first.splitlines() if line.startswith("| digits"))
    _, _, sgdm, _, adam, amsgrad, radam = row[2:-2].split(" | ")
    assert sgdm == f"90.00 ± {half:.2f} (1 failed) / **91.00 ± {2 * half:.2f}**"
    assert adam == f"90.00 ± {half:.2f} / 90.10 ± {wide:.2f}"
    assert amsgrad.startswith("**2.00 ± ") and radam == "80.00 (n = 1) / -"
    assert "; n = 3 seeds; bold: better" in first
    assert f"| SGDM | **+1.00 ± {half:.2f}** | 3 |" in second
    assert f"| Adam | +0.10 ± {10 * half:.2f} | 3 |" in second
    out, _ = show(capsys, "quickstart", "optim=sgdm", "--format", "latex", "--runs", str(tmp_path))
    base, lrd = rf"90.00 $\pm$ {half:.2f}", rf"91.00 $\pm$ {2 * half:.2f}"
    assert rf"{base} (1 failed) / \textbf{{{lrd}}}" in out
    assert rf"SGDM & \textbf{{+1.00 $\pm$ {half:.2f}}} \\" in out and "; n = 3.}" in out


@pytest.mark.parametrize("name", ["table2", "table3", "table4", "rmsprop_decay"])
def test_every_row_of_every_format_has_every_column(name: str, tmp_path: Path, capsys):
    count = len(TABLES[name].cells())
    out, _ = show(capsys, name, "--format", "csv", "--runs", str(tmp_path))
    rows = list(csv.reader(io.StringIO(out)))
    assert len(rows) == 1 + count and {len(row) for row in rows} == {len(rows[0])}
    out, _ = show(capsys, name, "--format", "markdown", "--runs", str(tmp_path))
    for part in out.split("\n\n"):
        widths = {line.count("|") for line in part.splitlines() if line.startswith("|")}
        assert len(widths) <= 1
    out, _ = show(capsys, name, "--format", "latex", "--runs", str(tmp_path))
    for part in out.split("\\begin{tabular}{")[1:]:
        columns = len(part.partition("}")[0])
        body = part.partition("\\end{tabular}")[0]
        assert {line.count("&") for line in body.splitlines()[1:] if "&" in line} == {columns - 1}
    assert out.count(r"\begin{table}") == out.count(r"\end{table}") == out.count(r"\caption{")
    assert not any(line.replace(r"\%", "").count("%") for line in out.splitlines())


def test_a_mistake_in_the_settings_is_one_line(capsys):
    assert table.main(["table1", "train.epochs=0"]) == 2
    assert capsys.readouterr().err == "error: train.epochs must be at least 1, got 0\n"


FACTORS = (0.125, 0.25, 0.5, 1, 2, 4, 8)
BASE, LRD = "lrd.p=1", "lrd.p=0.5"


def held_out(
    root: Path, p: str, scores: Sequence[float | None], seed: int = 0, **record: Any
) -> None:
    """Runs of Adam's row of the grid; None: one that failed."""
    for factor, value in zip(FACTORS, scores, strict=True):
        asked = ("task=digits", "optim=adam", p, f"optim.lr={0.001 * factor!r}")
        asked = (*asked, "dataset.holdout=287")
        if value is None:
            begin(root, seed, *asked).update(status="failed", **record)
        else:
            finish_with(root, value, *asked, seed=seed, **record)


@pytest.fixture
def adam() -> TableSpec:
    """The two rows of Adam alone."""
    return find_study("lr_tuned", ["optim=adam"])[0].tables["lr_tuned"]


def choice(grid: TableSpec, root: Path, row: int = 0) -> CellResults | None:
    results = collect_results(grid.cells(), RunFrames(root))
    return best_cell([results[cell] for (cell,) in grid.rows[row].groups], "optim.lr")


def factor(best: CellResults | None) -> str | None:
    return best.cell.overrides[-1] if best else None


UP_TO_2 = [90.0, 92.0, 94.0, 95.0, 96.0, 91.0, 80.0]


def test_the_best_mean_is_chosen_once_every_rate_has_a_run(adam: TableSpec, tmp_path: Path):
    held_out(tmp_path, BASE, UP_TO_2)
    assert factor(choice(adam, tmp_path)) == "lr_factor=2" and choice(adam, tmp_path, 1) is None
    held_out(tmp_path, BASE, [90, 92, 96.5, 95, 93, 91, 80], seed=1)  # 0.5: 95.25, 2: 94.5, 1: 95
    assert factor(choice(adam, tmp_path)) == "lr_factor=0.5"


def test_of_equal_scores_the_lowest_rate_is_chosen(adam: TableSpec, tmp_path: Path):
    held_out(tmp_path, LRD, [90, 95, 95, 95, 94, 93, 92])
    assert factor(choice(adam, tmp_path, 1)) == "lr_factor=0.25"


def test_a_rate_with_a_run_that_failed_is_not_chosen(adam: TableSpec, tmp_path: Path):
    held_out(tmp_path, BASE, UP_TO_2)
    held_out(tmp_path, BASE, [90, 91, 92, 93, None, None, None], seed=1)
    assert factor(choice(adam, tmp_path)) == "lr_factor=1"


def test_means_are_over_the_seeds_that_all_rates_have(adam: TableSpec, tmp_path: Path):
    held_out(tmp_path, BASE, UP_TO_2)
    asked = ("task=digits", "optim=adam", BASE, "optim.lr=0.001", "dataset.holdout=287")
    finish_with(tmp_path, 99.9, *asked, seed=1)
    assert factor(choice(adam, tmp_path)) == "lr_factor=2"


def test_of_a_score_to_be_minimized_the_least_is_chosen(adam: TableSpec, tmp_path: Path):
    score = {"name": "holdout_loss", "maximize": False, "unit": ""}
    held_out(tmp_path, BASE, UP_TO_2, score=score)
    assert factor(choice(adam, tmp_path)) == "lr_factor=8"


def test_the_test_set_has_no_say(adam: TableSpec, tmp_path: Path):
    """Runs of the same rates on the test set, of which another is best."""
    held_out(tmp_path, BASE, UP_TO_2)
    for value in FACTORS:
        asked = ("task=digits", "optim=adam", BASE, f"optim.lr={0.001 * value!r}")
        finish_with(tmp_path, 99.0 if value == 0.125 else 50.0, *asked)
    assert factor(choice(adam, tmp_path)) == "lr_factor=2"


def test_the_settings_of_a_test_hold_no_samples_out(adam: TableSpec, tmp_path: Path):
    cells = adam.cells()
    assert all(resolve_cell(cell).config.dataset["holdout"] == 287 for cell in cells[:2])
    for p in (BASE, LRD):
        for factor in FACTORS:
            asked = ("optim=adam", p, f"lr_factor={factor}", "dataset.holdout=300")
            finish_with(tmp_path, 90.0, "+experiment=lr_tuned", *asked)
    _, test = table_parts(adam, RunFrames(tmp_path), ["dataset.holdout=300", "data.root=here"])
    assert test.overrides == ["data.root=here"]
    for found in test.results.values():
        assert found.cell.overrides[-1] == "dataset.holdout=0"
        assert found.identity["dataset.holdout"] == 0


def test_the_table_names_the_rates_and_then_what_the_test_set_says(adam, tmp_path: Path, capsys):
    def show(*more: str) -> tuple[str, list[str]]:
        assert table.main(["lr_tuned", "optim=adam", "--runs", str(tmp_path), *more]) == 0
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
        for run in expand_sweep("lr_tuned", shlex.split(command)[4:]):
            (seed,) = (int(o.partition("=")[2]) for o in run if o.startswith("seed="))
            settings = tuple(o for o in run if not o.startswith("seed="))
            finish_with(tmp_path, base + seed, *settings, seed=seed)
    out, commands = show()
    assert not commands and "99.00 / 100.50" in out  # five seeds, 2 more than the first
    differences = out.partition("Differences")[2]
    assert "+1.50" in differences and differences.split()[-1] == "5"
    out, _ = show("--format", "csv")
    lines = [line for line in out.splitlines() if "dataset.holdout=0" in line]
    assert len(out.splitlines()) == 1 + 14 + 2 and len(lines) == 2


TWO_TASKS = """
tables:
  two:
    title: Two tasks
    heads: [Task]
    columns: {adam: optim=adam, sgdm: optim=sgdm}
    rows:
      - {labels: [digits], experiment: quickstart, overrides: lrd.p=1, target: test_accuracy >= 45}
      - {labels: [mnist], experiment: table1_mnist, overrides: lrd.p=1}
    contrasts: [{from: adam}]
"""


def two_tasks(root: Path) -> Path:
    """An accuracy on the digits and a loss on MNIST, two runs each, of which one more failed."""
    loss = PROVENANCE["score"] | {"name": "test_loss", "maximize": False, "unit": ""}
    failed = configured(root, "+experiment=quickstart", "optim=sgdm", "lrd.p=1")
    finish(failed, 2, [{"epoch": 1, "step": 7, "test_accuracy": 1.0}], status="failed")
    made = {"adam": ((45, 55), (2, 2)), "sgdm": ((60, 70), (2.2, 1.4))}
    for optim, (accuracies, losses) in made.items():
        rest = (f"optim={optim}", "lrd.p=1")
        digits = configured(root, "+experiment=quickstart", *rest)
        mnist = configured(root, "+experiment=table1_mnist", *rest)
        for seed, (accuracy, value) in enumerate(zip(accuracies, losses, strict=True)):
            lines = [
                {"epoch": e, "step": 7 * e, "test_accuracy": accuracy * e / 3, "train_loss": 1.0}
                for e in (1, 2, 3)
            ]
            finish(digits, seed, lines)
            line = {"epoch": 1, "step": 9, "test_accuracy": 0.0, "test_loss": value}
            finish(mnist, seed, [line], score=loss)
    path = root / "two_tasks.yaml"
    path.write_text(TWO_TASKS)
    return path


def test_contrasts_over_tasks_are_normalized_and_targets_counted_in_steps(tmp_path: Path, capsys):
    """By hand, as in test_aggregates; the target 45 is reached by 45 at 21, 55 at 21 steps, 60 at
    21 and 70 at 14."""
    out, _ = show(capsys, str(two_tasks(tmp_path)), "--runs", str(tmp_path))
    (line,) = [
        line for line in out.partition("Over tasks")[2].splitlines() if "sgdm - adam" in line
    ]
    assert line.split()[3:10] == ["2", "2", "4", "/", "4", "(1", "failed)"]
    assert "100.00 (95.00 to 105.00)" in line and "  125.00 (" in line and "  +25.00 (" in line
    assert "  0.75 (" in line
    (steps,) = [line for line in out.splitlines() if "test_accuracy >= 45" in line]
    assert steps.split()[-8:] == "21 (2 of 2) 17.5 (2 of 2)".split()
    out, _ = show(capsys, "table1", "--runs", str(tmp_path), "optim=adam")
    assert "Over tasks" not in out  # one data set has runs


@pytest.mark.parametrize("text", ["test_accuracy 45", "45", "a >= b", "[x]"])
def test_a_target_that_is_no_bound_is_one_line(text: str, tmp_path: Path, capsys):
    path = tmp_path / "own.yaml"
    path.write_text(TWO_TASKS.replace("test_accuracy >= 45", text))
    assert table.main([str(path), "--runs", str(tmp_path)]) == 2
    assert "a target must be METRIC >= VALUE or METRIC <= VALUE" in capsys.readouterr().err
