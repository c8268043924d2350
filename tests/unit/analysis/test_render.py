"""Blocks of reports in every format, and the reports of every command by structure."""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lrd.analysis.command_line import REPORT_FORMATS
from lrd.analysis.render import TEXT_FORMATS, Bold, Listing, Report, TextTable, render_reports
from scripts import compare, plan, table, verdicts
from tests.helpers.finished_runs import finish_with

COMMANDS: dict[str, tuple[Any, list[str]]] = {
    "table": (table, ["quickstart"]),
    "compare": (compare, ["quickstart", "rmsprop_decay"]),
    "equivalence": (compare, ["quickstart", "--equivalent-within", "2"]),
    "plan": (plan, ["table3"]),
    "verdicts": (verdicts, ["R1", "scale=0.5"]),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SGDM on the digits: LRD is better by 0.9, 1 and 1.1."""
    made = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        for p, value in (("1", 90 + seed), ("0.5", 90.9 + 1.1 * seed)):
            asked = ("task=digits", "optim=sgdm", f"lrd.p={p}")
            finish_with(made, value, *asked, seed=seed)
    return made


Printed = Callable[[str, str], str]


@pytest.fixture(scope="module")
def printed(root: Path) -> Printed:
    """What a command prints in a format; each computes its reports once."""

    @cache
    def reports(command: str) -> Sequence[Report]:
        kept: list[Sequence[Report]] = []
        module, arguments = COMMANDS[command]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "print_reports", lambda found, form: kept.append(found))
            assert module.main([*arguments, "--runs", str(root)]) == 0
        (found,) = kept
        return found

    return lambda command, form: render_reports(reports(command), form)


def test_the_formats_of_the_command_line_are_those_that_exist():
    assert (*TEXT_FORMATS, "csv") == REPORT_FORMATS


@pytest.mark.parametrize("command", COMMANDS)
def test_latex_is_balanced_and_its_tables_are_booktabs(command: str, printed: Printed):
    out = printed(command, "latex")
    open_now: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", out):
        if kind == "begin":
            open_now.append(name)
        else:
            assert open_now.pop() == name
    assert not open_now and r"\hline" not in out
    tables = re.findall(r"\\begin\{tabular\}\{([lc]+)\}\n(.*?)\\end\{tabular\}", out, re.S)
    assert bool(tables) == (command in ("table", "compare", "plan"))
    for columns, body in tables:
        first, head, rule, *lines, last = body.splitlines()
        assert (first, rule, last) == (r"\toprule", r"\midrule", r"\bottomrule")
        for line in (head, *lines):
            assert line.count(" & ") + line.startswith("& ") == len(columns) - 1
            assert line.removesuffix(r" \addlinespace").endswith(r" \\")
    text = re.sub(r"\\[%&_#${}]|\$(\\pm|[-<>])\$", "", out)  # what is escaped
    text = re.sub(r" & | &(?= )|^ & ", " ", text)
    assert not re.search(r"[%_#$&~^]|±", text)
    braces = re.sub(r"\\[{}]", "", out)
    assert braces.count("{") == braces.count("}")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_tables_of_markdown_have_equal_columns(command: str, printed: Printed):
    out = printed(command, "markdown")
    for part in out.split("\n\n"):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in part.splitlines() if "|" in line}
        assert len(widths) <= 1


def test_csv_has_a_line_a_comparison_or_a_cell_with_every_digit(printed: Printed):
    def rows(command: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(printed(command, "csv"))))

    found = rows("compare")
    titles = [row["title"] for row in found]
    assert titles[:5] == ["quickstart"] * 5 and set(titles[5:]) == {"rmsprop_decay"}
    sgdm, adam = found[0], found[2]
    assert (sgdm["comparison"], adam["comparison"]) == ("SGDM", "Adam")
    assert adam["n"] == "0" and not adam["difference"]
    assert float(sgdm["difference"]) == pytest.approx(1.0, abs=1e-12)
    half = 4.302652729911275 * 0.1 / 3**0.5  # t quantile, 2 degrees of freedom
    assert float(sgdm["low"]) == pytest.approx(1 - half, abs=1e-9)
    assert (sgdm["base_arm"], sgdm["other_arm"]) == ("without", "with LRD")
    assert sgdm["to_worse_final_same"] == "3"
    (sgdm,) = (row for row in rows("equivalence") if row["comparison"] == "SGDM")
    assert float(sgdm["low_90"]) == pytest.approx(1 - 2.919985580355516 * 0.1 / 3**0.5, abs=1e-9)
    assert sgdm["margin"] == "2.0" and float(sgdm["p_equivalence"]) < 0.05
    claims = rows("verdicts")
    assert {row["claim"] for row in claims} == {"R1"}
    deciding = [row["part"] for row in claims if row["decides"] == "True"]
    counted = Counter(row["part"] for row in claims if row["comparison"] != "mean")
    assert counted == {"1": 10, "2": 10, "3": 10} and len(deciding) == len(set(deciding))
    assert len(rows("plan")) == 14 and len(rows("table")) == 10


def test_the_command_prints_the_format_that_is_asked_for(root: Path, capsys):
    for form, said in (("latex", r"\begin{table}"), ("csv", "experiment,overrides,runs,")):
        assert plan.main(["quickstart", "--runs", str(root), "--format", form]) == 0
        assert said in capsys.readouterr().out


def test_the_better_arm_of_a_comparison_is_bold(printed: Printed):
    assert "| SGDM | 3 | 91.000 | **92.000** | +1.000 |" in printed("compare", "markdown")
    assert r"SGDM & 3 & 91.000 & \textbf{92.000} & +1.000 &" in printed("compare", "latex")
    assert "**" not in printed("compare", "text") and "bold" not in printed("compare", "text")


def test_what_has_a_meaning_in_a_format_is_escaped():
    rows = [["a|b_c", Bold("-1.5"), "<0.0001 >=1"], ["50 % of $x^2 \\ ~1", "1e-05", "+-3 & {#}"]]
    block = TextTable("one_title", "a note", ["", "n|", "p"], 1, rows, 1)
    latex = TEXT_FORMATS["latex"](block)
    assert r"a|b\_c & \textbf{$-$1.5} & $<$0.0001 $\ge$1 \\" in latex
    assert r"50 \% of \$x\textasciicircum{}2 \textbackslash{} \textasciitilde{}1 & 1e-05" in latex
    assert r"$\pm$3 \& \{\#\} \\" in latex and r"\caption{One\_title. A note.}" in latex
    assert r"| a\|b_c | **-1.5** | <0.0001 >=1 |" in TEXT_FORMATS["markdown"](block)


def test_the_n_of_all_rows_is_in_the_caption():
    def shown(*counts: str) -> Any:
        rows = [["a", n, "1.0"] for n in counts]
        block = TextTable("T", "mean", ["", "n", "score"], 1, rows, 0, ["foot"])
        return TEXT_FORMATS["text"](block), TEXT_FORMATS["latex"](block)

    text, latex = shown("3", "3")
    assert text == "T\n   n  score\na  3    1.0\na  3    1.0\nfoot"
    assert r"\caption{T. Mean; n = 3.}" in latex and r"{lc}" in latex and r"\par foot" in latex
    _, latex = shown("3", "4")
    assert r"\caption{T. Mean.}" in latex and r"{lcc}" in latex


def test_reports_follow_each_other_and_their_rows_become_one_csv():
    reports = [
        Report(["one\ntwo"], pd.DataFrame({"a": [0.1 + 0.2]})),
        Report([Listing([("C1", "UNDECIDED: so", ["p " * 60])])], pd.DataFrame({"b": ["x,y"]})),
    ]
    text = render_reports(reports, "text")
    assert text.startswith("one\ntwo\n\nC1  UNDECIDED: so\n    - p p")
    assert "\n      p p" in text and max(map(len, text.splitlines())) <= 95
    assert render_reports(reports, "csv") == 'a,b\n0.30000000000000004,\n,"x,y"'
