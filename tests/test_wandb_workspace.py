"""The workspace is laid out as the paper's figures, and shows the runs that fill their cells."""

import sys
from typing import Any

import lines
import pytest
import wandb_workspace
from curves import FIGURES
from looks import KEPT

from lrd.config.compose import compose, to_config
from lrd.config.fingerprint import fingerprint, identity
from lrd.config.schema import Wandb as Settings
from tests.wandb_file import contained

ws: Any = pytest.importorskip("wandb_workspaces.workspaces")


def made(*names: str, overrides: tuple[str, ...] = ()) -> tuple[Any, lines.Lines]:
    figures = {name: FIGURES[name] for name in names} or FIGURES
    found = lines.lines(figures.values(), overrides)
    where = Settings(project="p", entity="me")
    return wandb_workspace.workspace(figures, found, where, overrides), found


def mark(*overrides: str) -> str:
    """The fingerprint that a run of these overrides has."""
    return fingerprint(identity(to_config(compose(list(overrides)))))


def spec(workspace: Any) -> dict[str, Any]:
    """As it is sent."""
    return workspace._to_model().spec.model_dump(by_alias=True, exclude_none=True)["section"]


def test_a_section_for_every_figure_with_its_metrics_against_the_epoch():
    sent = spec(made()[0])
    sections = sent["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == [f.title for f in FIGURES.values()]
    for section, figure in zip(sections, FIGURES.values(), strict=True):
        plots = [panel["config"] for panel in section["panels"]]
        assert [p["metrics"][0] for p in plots] == [panel.key for panel in figure.panels]
        assert {p["xAxis"] for p in plots} == {"epoch"}
        assert [p.get("yLogScale", False) for p in plots] == [p.log for p in figure.panels]
        assert all((p["groupAgg"], p["aggregate"]) == ("mean", True) for p in plots)
        assert section["flowConfig"]["columnsPerPage"] == len(figure.panels)
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
def test_runs_are_grouped_by_what_tells_the_curves_apart(figure: str, columns: list[str]):
    workspace, found = made(figure)
    assert found.columns == columns
    grouped = [key["name"] for key in spec(workspace)["runSets"][0]["grouping"]]
    first, *rest = columns[-1].split(".")
    assert grouped[-1] == ".".join([first, "value", *rest]) and len(grouped) == len(columns)


def test_curves_keep_their_colours_and_those_of_one_hue_are_told_apart():
    workspace, kept = made("figure10")
    for (_, color, _, _), p in zip(KEPT, ("1", "0.1", "0.3", "0.5", "0.7", "0.9"), strict=True):
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
    assert runs.startswith("runs: the 2 cells ") and grouped == "grouped by arm"
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
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("error: the workspace was not saved: No API key")
    assert len(told.err.splitlines()) == 1


def test_mistakes_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert wandb_workspace.main(["figure99"]) == 2
    assert "figure must be one of figure5, " in capsys.readouterr().err
    assert wandb_workspace.main(["figure9", "lrd.p=0.5", "--print"]) == 2
    assert "curves must be different configurations" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert wandb_workspace.main(["figure9", "--print"]) == 2
    text = "error: needs the package: pip install -e '.[wandb-workspaces]'\n"
    assert capsys.readouterr().err == text
