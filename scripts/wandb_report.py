"""Tables and figures as a run on Weights & Biases: what ``report.py --wandb`` logs."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import figure
import table
from drawing import encode
from layout import TABLES
from page.build import scales
from page.chapters import at, mark
from PIL import Image

from lrd.config.compose import compose, to_config
from lrd.config.schema import Wandb as Settings
from lrd.loggers.wandb import wandb_settings
from lrd.runs.store import find_runs

NUMBERS = {"mean": float, "half_width_95": float, "n": int, "failed": int, "paper": float}
Rows = list[dict[str, Any]]


def split(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides that say where to log, ``wandb.*``, and those that runs are asked for with."""
    ours = [override for override in overrides if override.startswith("wandb.")]
    return ours, [override for override in overrides if override not in ours]


def settings(overrides: Sequence[str]) -> Settings:
    """``wandb.*`` as run.py would have it. Raises ValueError in one line."""
    return to_config(compose(overrides)).wandb


def filled(root: str, overrides: Sequence[str]) -> Iterator[tuple[str, Rows]]:
    """Every table of which there are runs, a row a cell, with the numbers that table.py prints."""
    for name in TABLES:
        with suppress(ValueError):  # not to be had under these settings; the page says why
            made = table.parts(name, root, overrides)
            if any(f.n for _, cells, _ in made for f in cells.values()):
                yield name, [_row(row) for row in csv.DictReader(io.StringIO(table.as_csv(made)))]


def _row(texts: dict[str, str]) -> dict[str, Any]:
    return {k: NUMBERS.get(k, str)(v) if v or k not in NUMBERS else None for k, v in texts.items()}


def drawn(root: str, overrides: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Every figure of which there are runs, as figure.py draws it, in PNG."""
    for name in figure.names():
        with suppress(ValueError):
            sheet, cells = figure.sheet(name, root, overrides)
            if any(f.n for f in cells):
                yield name, encode(sheet, "png")


def log(root: str, where: Settings, overrides: Sequence[str] = ()) -> str:
    """Log what the runs under ``root`` fill, at every length of training there is, into one run of
    job type ``report``; in words, what and where.

    ``wandb.mode=disabled`` leaves the mode to wandb: WANDB_MODE, else online. Raises whatever wandb
    does.
    """
    import wandb

    mode: Any = None if where.mode == "disabled" else where.mode
    place = Path(root).resolve()
    os.environ.setdefault("WANDB_DATA_DIR", str(place / "wandb"))  # where tables wait to be sent
    with wandb.init(
        mode=mode,
        project=where.project,
        entity=where.entity,
        group=where.group or "report",
        job_type="report",
        tags=where.tags,
        name=" ".join(["report", *overrides]),
        config={"runs": str(place), "overrides": list(overrides)},
        dir=root,
        settings=wandb_settings(),
    ) as run:
        tables: list[str] = []
        figures: list[str] = []
        for scale in [1.0, *scales(list(find_runs(root)), overrides)]:
            asked, ends = at(scale, overrides), mark(scale)
            for name, rows in filled(root, asked):
                made = wandb.Table(list(rows[0]), [list(row.values()) for row in rows])
                run.log({f"tables/{name}{ends}": made}, step=0)
                there = sum(row["n"] > 0 for row in rows)
                run.summary[f"filled/{name}{ends}"] = f"{there} of {len(rows)}"
                tables.append(name + ends)
            for name, png in drawn(root, asked):
                run.log({f"figures/{name}{ends}": wandb.Image(Image.open(io.BytesIO(png)))}, step=0)
                figures.append(name + ends)
        where_to = Path(run.dir).parent if run.offline else run.url
        return f"tables {_listed(tables)}; figures {_listed(figures)}; {where_to}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
