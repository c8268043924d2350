"""A page of one table, one figure and one claim, on the digits: what its tests need and no more."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import page.build
import page.chapters
import toy
import verdicts
import yaml
from curves import FIGURES, Figure, Group, Panel, pair
from layout import TABLES

FIGURE = "figure99"
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
            "together": "pooled",
        }
    ],
}


class Here(Executor):
    """Works at once and in this process: another one takes seconds to start."""

    def __init__(self, *_: Any) -> None: ...

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except ValueError as error:
            future.set_exception(error)
        return future


def learning(*optims: str) -> Figure:
    """The loss, and the accuracy with printed values, of optimizers on the digits."""
    panels = (Panel("train_loss", "Loss", log=True), Panel("test_accuracy", "Test", "%"))
    paper = {arm: {"test_accuracy": value} for arm, value in (("base", 90.5), ("lrd", 91.0))}
    groups = [
        Group(optim.title(), pair("quickstart", optim, ("base", "LRD"), paper)) for optim in optims
    ]
    return Figure("Curves on the digits", panels, tuple(groups))


@contextmanager
def reduced(folder: Path) -> Iterator[None]:
    """The page's tables are ``quickstart`` alone, its claims D1, and it has no figure; ``folder``
    takes the file of claims."""
    claims = folder / "claims.yaml"
    claims.write_text(yaml.safe_dump({"seeds": 3, "claims": {"D1": CLAIM}}))

    def judged(root: str, overrides: Sequence[str]) -> list[verdicts.Verdict]:
        return verdicts.judged(root, overrides, claims)

    table = {"quickstart": TABLES["quickstart"]}
    with (
        mock.patch.dict(TABLES, table, clear=True),
        mock.patch.dict(FIGURES, clear=True),
        mock.patch.dict(toy.FIGURES, clear=True),
        mock.patch.object(page.chapters, "judged", judged),
        mock.patch.object(page.build, "ProcessPoolExecutor", Here),
    ):
        yield
