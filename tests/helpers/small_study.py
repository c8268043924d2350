"""A study of one table, one figure and one claim on the digits: what the page's tests need."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from lrd.analysis.studies import read
from lrd.config.compose import CONFIGS

FIGURE = "figure99"
HUES = {"sgdm": "#0072B2", "adam": "#D55E00"}
TABLE: dict[str, Any] = yaml.safe_load((CONFIGS / "study" / "quickstart.yaml").read_text())[
    "tables"
]
CLAIM = {
    "says": "LRD helps on the digits",
    "where": "section 9",
    "parts": [
        {
            "pairs": [
                {
                    "experiment": ["quickstart"],
                    "over": {"optim": ["adam", "sgdm"]},
                    "from": ["lrd.p=1"],
                    "to": ["lrd.p=0.5"],
                }
            ],
            "measure": {"final": "score"},
            "must": "rise",
            "smallest": 0.2,
            "together": "mean",
            "n": 3,
            "sd": 0.2,
            "expect": 0.5,
        }
    ],
}


def learning_curves(*optims: str) -> dict[str, Any]:
    """Return a figure of the loss, and of the accuracy with the paper's values."""
    arms = [
        {
            "label": "base",
            "overrides": "lrd.p=1",
            "line": "--",
            "published": {"test_accuracy": 90.5},
        },
        {
            "label": "LRD",
            "overrides": "lrd.p=0.5",
            "marker": "s",
            "published": {"test_accuracy": 91.0},
        },
    ]
    return {
        "title": "Curves on the digits",
        "experiment": "quickstart",
        "panels": [
            {"key": "train_loss", "label": "Loss", "log": True},
            {"key": "test_accuracy", "label": "Test", "unit": "%"},
        ],
        "groups": [
            {"label": optim.title(), "overrides": f"optim={optim}", "color": HUES[optim]}
            for optim in optims
        ],
        "curves": arms,
    }


def table(optims: Sequence[str], published: Sequence[float]) -> dict[str, Any]:
    """Return a table of the digits with columns for optimizers, and the paper's numbers."""
    return {
        "title": "Ours",
        "heads": ["Data", "Model"],
        "experiment": "quickstart",
        "columns": {optim: f"optim={optim}" for optim in optims},
        "arms": {"without": "lrd.p=1", "with LRD": "lrd.p=0.5"},
        "rows": [{"labels": ["digits", "FCNet"], "published": list(published)}],
    }


def write_study(folder: Path, **parts: Any) -> None:
    """Write the study; ``parts`` replace its tables or figures."""
    content = {"tables": TABLE, "figures": {}, "claims": {"D1": CLAIM}} | parts
    path = folder / "study" / "small.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


@contextmanager
def small_study(folder: Path, **parts: Any) -> Iterator[None]:
    """Make the study under ``folder`` the only one."""
    with mock.patch.object(read, "config_dirs", lambda: (folder,)):
        write_study(folder, **parts)
        yield
