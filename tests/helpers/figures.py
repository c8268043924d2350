"""What the tests of figures share: runs with given metrics, and the panels of a drawing."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrd.analysis.frames import RunFrames
from lrd.analysis.plotting import draw_figure
from lrd.analysis.plotting.series import collect_figure
from lrd.analysis.studies import FigureSpec
from lrd.analysis.studies.find import figures_of, find_study
from lrd.config.compose import compose, to_config
from lrd.runs.store import RunStore

MAGIC = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


def write_run(root: Path, lines: Sequence[Any], *overrides: str, score: str = "score") -> Path:
    """Write a finished run with these metrics, and return its metrics.jsonl."""
    run = RunStore(to_config(compose([f"run.dir={root}", *overrides]))).run
    run.update(status="finished", score={"name": score, "maximize": True, "unit": "%"})
    path = run.folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def draw(figure: FigureSpec | str, root: Path, *overrides: str) -> Figure:
    """Draw a figure, given by its name or its spec, from the runs under a directory."""
    if isinstance(figure, str):
        figure = figures_of(find_study(figure)[0])[figure]
    results = collect_figure(figure, RunFrames(root), overrides)
    return draw_figure(figure, results, overrides).sheet


def panels_of(sheet: Figure) -> list[Axes]:
    """Return the axes that show data."""
    return [axis for axis in sheet.axes if axis.axison and axis.get_label() != "<colorbar>"]
