"""The finished tables and figures as a run of wandb, read back from its own files."""

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import report
import wandb
from curves import FIGURES
from PIL import Image
from tabular import OPTIMIZERS

from tests.finished_runs import grid
from tests.small_page import FIGURE, learning, reduced
from tests.wandb_file import WandbFile, contained, files


@pytest.fixture(autouse=True)
def small(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[None]:
    with reduced(tmp_path_factory.mktemp("claims")), contained(tmp_path / "beside"):
        yield


def logged(root: Path, *arguments: str) -> WandbFile:
    assert report.main(["--runs", str(root), "--wandb", *arguments]) == 0
    (run,) = files(root / "wandb")
    return run


def rows(root: Path, name: str) -> list[dict[str, Any]]:
    (path,) = (root / "wandb").rglob(f"files/media/table/tables/{name}_*.table.json")
    table = json.loads(path.read_text())
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def test_a_table_has_a_row_a_cell_with_what_the_runs_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root = tmp_path / "runs"
    made = grid(root, "quickstart", ["adam"], 3, 2)
    run = logged(root, "wandb.mode=offline", "wandb.project=mine", "wandb.tags=[t]")
    assert (run.run.project, run.run.job_type, list(run.run.tags)) == ("mine", "report", ["t"])
    found = {row["overrides"]: row for row in rows(root, "quickstart")}
    assert len(found) == 2 * len(OPTIMIZERS)
    for p in ("1", "0.5"):
        row = found[f"optim=adam lrd.p={p}"]
        scores = [one.final for one in made["adam", p]]
        half = 4.302652729911275 * statistics.stdev(scores) / 3**0.5  # Student's t, 2 degrees
        assert row["mean"] == pytest.approx(statistics.fmean(scores), abs=1e-9)
        assert row["half_width_95"] == pytest.approx(half)
        assert (row["n"], row["failed"], row["paper"]) == (3, 0, None)
        assert (row["Dataset"], row["Model"]) == ("digits", "FCNet")
    assert found["optim=sgdm lrd.p=1"]["mean"] is None
    assert run.summary["filled/quickstart"] == "2 of 10" and run.exit_code == 0
    page, told = capsys.readouterr().out.splitlines()
    assert page == str(root / "report.html") and Path(page).is_file()
    assert told.startswith("wandb: tables quickstart; figures none; ")
    assert Path(told.rpartition(" ")[2]).is_dir()


def test_shorter_runs_are_tables_of_their_own_and_figures_are_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = tmp_path / "runs"
    monkeypatch.setenv("WANDB_MODE", "offline")  # which wandb takes by itself
    monkeypatch.setitem(FIGURES, FIGURE, learning("adam"))
    grid(root, "quickstart", ["adam"], 2, 3, "scale=0.1")
    run = logged(root)
    (line,) = run.history
    assert {name for name in run.summary if name.startswith("filled/")} == {
        "filled/quickstart-at-0.1"
    }
    assert rows(root, "quickstart-at-0.1")[4]["n"] == 2
    (path,) = (root / "wandb").rglob(f"{FIGURE}-at-0.1*.png")
    assert path.name in str(line)
    with Image.open(path) as image:
        assert image.width > 1000


def test_without_a_network_the_page_is_written_and_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuse(**settings: Any) -> None:
        raise wandb.Error("nobody\nthere")

    monkeypatch.setattr(wandb, "init", refuse)
    root = tmp_path / "runs"
    assert report.main(["--runs", str(root), "--wandb"]) == 0
    told = capsys.readouterr()
    assert Path(told.out.strip()).is_file()
    assert told.err == "warning: nothing logged to wandb: nobody there\n"


def test_a_wrong_setting_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert report.main(["--runs", str(tmp_path), "--wandb", "wandb.mode=sideways"]) == 2
    assert capsys.readouterr().err.startswith("error: wandb.mode must be one of disabled, offline")
