"""The finished tables and figures as a run of wandb, read back from its own files."""

import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from PIL import Image

from lrd.analysis.dashboards import (
    DashboardLines,
    build_workspace,
    dashboard_lines,
    learning_curves,
)
from lrd.analysis.resolve import resolve
from lrd.analysis.studies.find import find_study
from lrd.config.schema import WandbSettings
from scripts import report, wandb_workspace
from tests.helpers import small_study
from tests.helpers.finished_runs import grid
from tests.helpers.wandb_file import WandbFile, contained, files

FIGURES = learning_curves([find_study("lrd_paper")[0]])


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[Path]:
    """The directory of the only study; what wandb writes elsewhere stays under tmp_path."""
    made = tmp_path_factory.mktemp("study")
    with small_study.small_study(made), contained(tmp_path / "elsewhere"):
        yield made


def logged(root: Path, *arguments: str) -> WandbFile:
    assert report.main(["--runs", str(root), "--wandb", *arguments]) == 0
    (run,) = files(root / "wandb")
    return run


def rows(root: Path, name: str) -> list[dict[str, Any]]:
    (path,) = (root / "wandb").rglob(f"files/media/table/tables/{name}_*.table.json")
    table = json.loads(path.read_text())
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def test_a_table_has_a_row_a_cell_with_what_the_runs_say(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
):
    root = tmp_path / "runs"
    made = grid(root, "quickstart", ["adam"], 3, 2)
    run = logged(root, "wandb.mode=offline", "wandb.project=mine", "wandb.tags=[t]")
    assert (run.run.project, run.run.job_type, list(run.run.tags)) == ("mine", "report", ["t"])
    found = {row["overrides"]: row for row in rows(root, "quickstart")}
    assert len(found) == 2 * 5
    for p in ("1", "0.5"):
        row = found[f"optim=adam lrd.p={p}"]
        scores = [one.final for one in made["adam", p]]
        half = 4.302652729911275 * statistics.stdev(scores) / 3**0.5  # Student's t, 2 degrees
        assert row["mean"] == pytest.approx(statistics.fmean(scores), abs=1e-9)
        assert row["half_width_95"] == pytest.approx(half)
        assert (row["n"], row["failed"], row["published"]) == (3, 0, None)
        assert (row["Dataset"], row["Model"]) == ("digits", "FCNet")
    assert found["optim=sgdm lrd.p=1"]["mean"] is None
    assert run.summary["filled/quickstart"] == "2 of 10" and run.exit_code == 0
    page, printed = capsys.readouterr().out.splitlines()
    assert page == str(root / "report.html") and Path(page).is_file()
    assert printed.startswith("wandb: tables quickstart; figures none; ")
    assert Path(printed.rpartition(" ")[2]).is_dir()


def test_shorter_runs_are_tables_of_their_own_and_figures_are_pictures(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    root = tmp_path / "runs"
    monkeypatch.setenv("WANDB_MODE", "offline")  # which wandb takes by itself
    figures = {small_study.FIGURE: small_study.learning_curves("adam")}
    small_study.write_study(folder, figures=figures)
    grid(root, "quickstart", ["adam"], 2, 3, "scale=0.1")
    run = logged(root)
    (line,) = run.history
    assert {name for name in run.summary if name.startswith("filled/")} == {
        "filled/quickstart-at-0.1"
    }
    assert rows(root, "quickstart-at-0.1")[4]["n"] == 2
    (path,) = (root / "wandb").rglob(f"{small_study.FIGURE}-at-0.1*.png")
    assert path.name in str(line)
    with Image.open(path) as image:
        assert image.width > 1000


def test_without_a_network_the_page_is_written_and_one_line_says_so(
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def refuse(**settings: Any) -> None:
        raise wandb.Error("nobody\nthere")

    monkeypatch.setattr(wandb, "init", refuse)
    root = tmp_path / "runs"
    assert report.main(["--runs", str(root), "--wandb"]) == 0
    printed = capsys.readouterr()
    assert Path(printed.out.strip()).is_file()
    assert printed.err == "warning: nothing logged to wandb: nobody there\n"


def test_a_wrong_setting_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert report.main(["--runs", str(tmp_path), "--wandb", "wandb.mode=sideways"]) == 2
    assert capsys.readouterr().err.startswith("error: wandb.mode must be one of disabled, offline")


def made(*names: str, overrides: tuple[str, ...] = ()) -> tuple[Any, DashboardLines]:
    pytest.importorskip("wandb_workspaces.workspaces")
    figures = {name: FIGURES[name] for name in names or FIGURES}
    found = dashboard_lines(figures.values(), overrides)
    where = WandbSettings(project="p", entity="me")
    title = " ".join(names or ["lrd_paper"])
    return build_workspace(title, figures, found, where, overrides), found


def mark(*overrides: str) -> str:
    """The fingerprint that a run of these overrides has."""
    return resolve(overrides).fingerprint


def spec(workspace: Any) -> dict[str, Any]:
    """As it is sent."""
    return workspace._to_model().spec.model_dump(by_alias=True, exclude_none=True)["section"]


def test_a_section_for_every_figure_with_its_metrics_against_the_epoch():
    sent = spec(made()[0])
    sections = sent["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == [f.title for f in FIGURES.values()]
    for section, figure in zip(sections, FIGURES.values(), strict=True):
        plots = [panel["config"] for panel in section["panels"]]
        panels = [panel for panel in figure.panels if not panel.difference]
        assert [p["metrics"][0] for p in plots] == [panel.key for panel in panels]
        assert {p["xAxis"] for p in plots} == {"epoch"}
        assert [p.get("yLogScale", False) for p in plots] == [p.log for p in panels]
        assert all((p["groupAgg"], p["aggregate"]) == ("mean", True) for p in plots)
        assert section["flowConfig"]["columnsPerPage"] == len(panels)
    (figure8,) = [s for s in sections if s["name"].startswith("Figure 8")]
    miou = figure8["panels"][0]["config"]["metrics"]
    assert miou == ["val_whole_miou", "val_sliding_miou"]
    assert sent["settings"]["shouldAutoGeneratePanels"] is False


def test_a_figures_runs_are_found_by_what_they_are_whoever_asked_for_them():
    workspace, found = made("figure12")
    asked = {
        mark("task=cifar10", f"optim={optim}", arm)
        for optim in ("adam", "sgdm")
        for arm in ("lrd.p=1", "lrd.p=0.5", "+arm=dg")
    }
    assert set(found.fingerprints) == asked and len(asked) == 6
    (group, config) = spec(workspace)["runSets"][0]["filters"]["filters"]
    assert group["key"] == {"section": "run", "name": "group"} and group["op"] == "IN"
    assert config["key"]["name"] == "fingerprint" and config["connector"] == "OR"
    assert set(group["value"]) == set(config["value"]) == asked


def test_other_settings_ask_for_other_runs():
    workspace, found = made("figure13", overrides=("scale=0.1",))
    assert workspace.name == "Learning Rate Dropout: figure13 scale 0.1"
    assert mark("task=cifar10", "optim=adam", "lrd.p=1", "scale=0.1") in found.fingerprints
    assert not set(found.fingerprints) & set(made("figure13")[1].fingerprints)


@pytest.mark.parametrize(
    "figure, columns",
    [
        ("figure6", ["optimizer", "arm"]),
        ("figure9", ["arm"]),
        ("figure10", ["optimizer", "arm", "p"]),
        ("figure13", ["arm", "settings.regularizer.sd.p_sd"]),
    ],
)
def test_runs_are_grouped_by_what_distinguishes_the_curves(figure: str, columns: list[str]):
    workspace, found = made(figure)
    assert found.columns == columns
    grouped = [key["name"] for key in spec(workspace)["runSets"][0]["grouping"]]
    first, *rest = columns[-1].split(".")
    assert grouped[-1] == ".".join([first, "value", *rest]) and len(grouped) == len(columns)


def test_curves_keep_their_colours_and_those_of_one_hue_are_distinguished():
    workspace, kept = made("figure10")
    drawn = [curve.color for curve in FIGURES["figure10"].groups[0].curves]
    for color, p in zip(drawn, ("1", "0.1", "0.3", "0.5", "0.7", "0.9"), strict=True):
        arm = "base" if p == "1" else "lrd"
        assert kept.colors["Adam", arm, p] == kept.colors["SGDM", arm, p] == color
    assert len(spec(workspace)["customRunColors"]) == len(kept.colors) == 12
    _, pairs = made("figure6")
    assert pairs.colors["Adam", "lrd"] == "#D55E00" and pairs.colors["Adam", "base"] == "#eaae80"
    assert len(set(pairs.colors.values())) == 10


def test_the_layout_is_printed_without_a_network(capsys: pytest.CaptureFixture[str]):
    assert wandb_workspace.main(["figure9", "--print", "wandb.project=mine"]) == 0
    head, runs, grouped, title, train, validation = capsys.readouterr().out.splitlines()
    assert head == "Learning Rate Dropout: figure9 (project mine)"
    assert runs.startswith("runs: the 2 configurations ") and grouped == "grouped by arm"
    assert title == FIGURES["figure9"].title
    assert train == "  Training loss [train_loss] against epoch"
    assert validation == "  Validation loss [test_loss] against epoch"


def test_without_a_key_nothing_is_saved_and_one_line_says_so(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with contained(tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NETRC", str(tmp_path / "none"))
        monkeypatch.delenv("WANDB_API_KEY")
        assert wandb_workspace.main(["figure9", "wandb.entity=me"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith(
        "error: the workspace was not saved: No API key"
    )
    assert len(printed.err.splitlines()) == 1


def test_mistakes_of_a_workspace_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert wandb_workspace.main(["figure99"]) == 2
    assert "figure99 must be a study (" in capsys.readouterr().err
    assert wandb_workspace.main(["figure9", "lrd.p=0.3", "--print"]) == 2
    assert "figure9 has no table and no curve with lrd.p=0.3" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert wandb_workspace.main(["figure9", "--print"]) == 2
    text = "error: wandb_workspaces is missing: pip install -e '.[experiments]'\n"
    assert capsys.readouterr().err == text
