"""What each of the paper's tables looks like: its cells, and the configuration behind each."""

import json
from dataclasses import dataclass
from pathlib import Path

PAPER = json.loads((Path(__file__).parent / "paper" / "numbers.json").read_text())
OPTIMIZERS = {
    "sgdm": "SGDM",
    "rmsprop": "RMSprop",
    "adam": "Adam",
    "amsgrad": "AMSGrad",
    "radam": "RAdam",
}


@dataclass(frozen=True)
class Cell:
    """One configuration: the overrides that compose it, and what the paper prints for it."""

    experiment: str
    overrides: tuple[str, ...]
    paper: float | None = None


@dataclass(frozen=True)
class Table:
    """``rows`` hold a label for each of ``heads`` and a group of cells for each of ``columns``."""

    title: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[tuple[Cell, ...], ...]], ...]

    def cells(self) -> list[Cell]:
        return [cell for _, groups in self.rows for group in groups for cell in group]


def pairs(experiment: str, paper: dict[str, dict[str, float]]) -> tuple[tuple[Cell, ...], ...]:
    """For every optimizer the cell without LRD and the cell with it."""
    arms = (("base", "lrd.p=1"), ("lrd", "lrd.p=0.5"))
    return tuple(
        tuple(
            Cell(experiment, (f"optim={optim}", p), paper.get(optim, {}).get(arm))
            for arm, p in arms
        )
        for optim in OPTIMIZERS
    )


def classification(title: str, rows: dict[str, tuple[tuple[str, ...], str]]) -> Table:
    """Table 1's layout: a row per experiment, ``without / with`` LRD for every optimizer."""
    numbers = PAPER["table1"]["cells"]
    return Table(
        title,
        ("Dataset", "Model"),
        tuple(OPTIMIZERS.values()),
        tuple((head, pairs(name, numbers.get(key, {}))) for name, (head, key) in rows.items()),
    )


TABLES = {
    "table1": classification(
        "Table 1. Test accuracy on image classification (%), without / with learning rate dropout",
        {
            "table1_mnist": (("MNIST", "FCNet"), "mnist/fcnet"),
            "table1_cifar10": (("CIFAR-10", "ResNet-34"), "cifar10/resnet34"),
            "table1_cifar100": (("CIFAR-100", "DenseNet-121"), "cifar100/densenet121"),
        },
    ),
    "quickstart": classification(
        "Test accuracy on the embedded digits (%), without / with learning rate dropout",
        {"quickstart": (("digits", "FCNet"), "")},
    ),
}
