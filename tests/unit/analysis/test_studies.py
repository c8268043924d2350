"""Studies: what a name stands for, files of one's own, and what an experiment shows by itself."""

from pathlib import Path

import pytest

from lrd.analysis.resolve import list_experiments
from lrd.analysis.studies import all_studies, read_study
from lrd.analysis.studies.find import figures_of, find_study, tables_of
from lrd.config.compose import use_config_dir
from scripts import compare, figure, plan, table
from tests.helpers.finished_runs import finish_with

OWN = """
tables:
  mine:
    title: Mine
    heads: [Data, Size]
    experiment: quickstart
    columns: {SGDM: optim=sgdm, Adam: optim=adam}
    rows:
      - {labels: [digits, small], overrides: "model.hidden=[8]", published: [90, 91]}
      - {labels: [digits, large], overrides: "model.hidden=[16]", published: [92, 94]}
CONTRASTS
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A directory of options with a study and an experiment, which sweeps three settings."""
    for group in ("study", "experiment"):
        (tmp_path / group).mkdir()
    text = "# @package _global_\nhydra: {sweeper: {params: {lrd.p: '1,0.5', optim: 'sgdm,adam', "
    (tmp_path / "experiment" / "widths.yaml").write_text(
        text + "'model.hidden': '[8],[16]', seed: '0,1'}}}\n"
    )
    (tmp_path / "study" / "mine.yaml").write_text(OWN.replace("CONTRASTS", ""))
    return tmp_path


def labels(folder: Path, contrasts: str) -> list[str]:
    path = folder / "study" / "mine.yaml"
    path.write_text(OWN.replace("CONTRASTS", f"    contrasts: {contrasts}"))
    return [
        f"{pair.label}: {' '.join(pair.base.overrides)} / {' '.join(pair.other.overrides)}"
        for pair in read_study(path).tables["mine"].pairs()
    ]


def test_every_study_part_and_experiment_has_tables_and_figures():
    parts = [name for study in all_studies() for name in (*study.tables, *study.figures)]
    names = [*(study.name for study in all_studies()), *parts, *list_experiments()]
    assert {"lrd_paper", "table1", "figure6", "quickstart", "fast_cifar10"} <= set(names)
    for name in names:
        study, rest = find_study(name)
        assert not rest and tables_of(study) and figures_of(study), name
        cells = {cell for found in tables_of(study).values() for cell in found.cells()}
        curves = [c.cell for found in figures_of(study).values() for c in found.curves()]
        has_own = study.tables and study.figures  # which need not have the same cells
        assert study.experiments and (set(curves) == cells or has_own)


def test_a_claim_is_found_by_its_name():
    study, _ = find_study("C9")
    assert [claim.name for claim in study.claims] == ["C9"] and not study.tables
    assert study.experiments == ["figure4_lr"]


def test_what_is_no_name_is_one_line_with_the_names(own: Path):
    with pytest.raises(ValueError, match=r"nothing must be a study \(lr_control, .*experiment \("):
        find_study("nothing")
    with use_config_dir(own), pytest.raises(ValueError, match=r"study \(mine, .* widths\)"):
        find_study("nothing")


def test_an_experiment_without_a_study_shows_what_it_sweeps(own: Path):
    with use_config_dir(own):
        study, rest = find_study("widths", ["train.epochs=3"])
        (found,) = tables_of(study).values()
        assert rest == ["train.epochs=3"] and found.heads == ("optim", "model.hidden")
        assert found.columns == ("lrd.p=1", "lrd.p=0.5")
        rows = [("sgdm", "[8]"), ("sgdm", "[16]"), ("adam", "[8]"), ("adam", "[16]")]
        assert [row.labels for row in found.rows] == rows
        assert found.rows[1].groups[1][0].overrides == (
            "optim=sgdm",
            "model.hidden=[16]",
            "lrd.p=0.5",
        )
        assert [pair.label for pair in found.pairs()] == [", ".join(row) for row in rows]
        (drawn,) = figures_of(study).values()
        assert [len(group.curves) for group in drawn.groups] == [2] * 4
        assert len({curve.color for curve in drawn.groups[0].curves}) == 2
        # settings of the command line take the place of the experiment's
        study, rest = find_study("widths", ["optim=adam", "model.hidden=[8],[9],[10]"])
        (found,) = tables_of(study).values()
        assert rest == ["optim=adam"] and found.heads == ("model.hidden",)
        assert [row.labels for row in found.rows] == [("[8]",), ("[9]",), ("[10]",)]


@pytest.mark.parametrize(
    "override, rows, columns",
    [
        ("optim=adam", 3, ("Adam",)),
        ("optim=adam,sgdm", 3, ("SGDM", "Adam")),
        ("lrd.p=0.5", 3, ("SGDM", "RMSprop", "Adam", "AMSGrad", "RAdam")),
    ],
)
def test_a_setting_of_the_cells_chooses_those_that_have_it(override: str, rows: int, columns):
    study, rest = find_study("table1", [override, "scale=0.1"])
    found = study.tables["table1"]
    assert rest == ["scale=0.1"] and len(found.rows) == rows and found.columns == columns
    assert bool(found.pairs()) == ("lrd.p" not in override)
    whole = find_study("table1")[0].tables["table1"].cells()
    chosen = [c for c in whole if c.overrides[int("lrd" in override)] in override.split(",")]
    if "," not in override:
        assert found.cells() == chosen and [c.published for c in chosen] == [
            c.published for c in found.cells()
        ]


def test_a_setting_that_no_cell_has_is_one_line():
    with pytest.raises(ValueError, match="table1 has no table and no curve with optim=lion"):
        find_study("table1", ["optim=lion"])
    with pytest.raises(ValueError, match="figure8 has no table and no curve with lrd.p=0.3"):
        find_study("figure8", ["lrd.p=0.3"])


def test_a_setting_that_some_parts_of_a_study_choose_by_holds_for_the_others():
    study, rest = find_study("lrd_paper", ["+arm=sd"])
    assert not rest and study.tables["table3"].columns == ("Adam", "SGDM")
    assert [row.labels for row in study.tables["table3"].rows] == [("Standard dropout (SD)",)]
    assert all("+arm=sd" in cell.overrides for cell in study.tables["table1"].cells())
    assert "figure11" in study.figures and "figure12" not in study.figures


def test_contrasts_name_rows_columns_or_both(own: Path):
    small, large = "model.hidden=[8] optim=", "model.hidden=[16] optim="
    assert labels(own, "[from: SGDM]") == [
        f"small: {small}sgdm / {small}adam",
        f"large: {large}sgdm / {large}adam",
    ]
    assert labels(own, "[{from: small, to: large}]") == [
        f"SGDM: {small}sgdm / {large}sgdm",
        f"Adam: {small}adam / {large}adam",
    ]
    both = labels(own, "[{from: [small, SGDM], to: [large, Adam], label: both}, from: large]")
    assert both == [
        f"both: {small}sgdm / {large}adam",
        f"SGDM, small - large: {large}sgdm / {small}sgdm",
        f"Adam, small - large: {large}adam / {small}adam",
    ]
    with pytest.raises(ValueError, match="a contrast must name one of digits, small, large, SGDM"):
        labels(own, "[from: tiny]")
    with pytest.raises(ValueError, match="a contrast has from, to and label, got at"):
        labels(own, "[{from: small, at: large}]")


def test_a_study_of_ones_own_is_read_by_every_command(own: Path, tmp_path: Path, capsys):
    """And its differences are those worked out by hand: 2 and 3 at the two seeds."""
    root = tmp_path / "runs"
    for seed, (base, other) in enumerate([(90.0, 92.0), (91.0, 94.0)]):
        for optim, value in (("sgdm", base), ("adam", other)):
            asked = ("task=digits", f"optim={optim}", "model.hidden=[8]")
            finish_with(root, value, *asked, seed=seed)
    (own / "study" / "mine.yaml").write_text(
        OWN.replace("CONTRASTS", "    contrasts: [from: SGDM]")
    )
    given = ["mine", "--config-dir", str(own), "--runs", str(root)]
    assert table.main(given) == 0
    out, err = capsys.readouterr()
    assert any(line.split()[:2] == ["small", "+2.50"] for line in out.splitlines())
    assert f"python run.py --config-dir={own} -m +experiment=quickstart " in err
    assert compare.main(given) == 0 and "mine: Adam against SGDM" in capsys.readouterr().out
    assert figure.main([*given, "--out", str(tmp_path / "a.png")]) == 0
    assert plan.main(given) == 0
    assert "quickstart" in capsys.readouterr().out and (tmp_path / "a.png").stat().st_size > 10_000
    assert table.main(["mine", "--runs", str(root)]) == 2  # without --config-dir
    assert table.main([]) == 2
    assert "NAME is missing: a study" in capsys.readouterr().err


def test_seeds_of_the_command_line_are_the_ones_that_count(tmp_path: Path, capsys):
    for seed in range(4):
        finish_with(tmp_path, 90.0 + seed, "task=digits", "optim=adam", "lrd.p=1", seed=seed)
    given = ["quickstart", "optim=adam", "--runs", str(tmp_path), "--format", "csv"]
    assert table.main([*given, "seed=1,2"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "lrd.p=1," in line)
    assert ",91.5," in line and line.split(",")[6] == "2"


def test_a_damaged_file_is_one_line(own: Path):
    path = own / "study" / "mine.yaml"
    for text in ("tables: [", "tables: {a: {title: A}}", "tables: 3", "claims: {C: {}}"):
        path.write_text(text)
        with pytest.raises(
            ValueError, match="must (be as study/lrd_paper.yaml|have says)"
        ) as error:
            find_study(str(path))
        assert "\n" not in str(error.value)


LINES = """
figures:
  lines:
    title: A
    experiment: quickstart
    groups: [{label: Adam, overrides: optim=adam}]
"""


@pytest.mark.parametrize(
    "kind, known, other", [("row", "published", "paper"), ("group", "label", "name")]
)
def test_a_key_that_no_row_and_no_group_has_is_named(own: Path, kind: str, known: str, other: str):
    path = own / "study" / "mine.yaml"
    text = OWN.replace("CONTRASTS", LINES)
    path.write_text(text)
    assert {"mine", "lines"} == read_study(path).tables.keys() | read_study(path).figures.keys()
    for start in (", ", "{"):
        text = text.replace(f"{start}{known}:", f"{start}{other}:")
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"a {kind} has .*{known}.*, got {other}$"):
        read_study(path)
