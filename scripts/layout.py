"""What each table looks like: its cells, and the configuration behind each."""

from collections.abc import Iterable, Mapping

import controls
from tabular import BASE, LRD, OPTIMIZERS, PAPER, Cell, Group, Table

# A label, a setting, and what the paper prints for it, by optimizer.
Row = tuple[str, str, Mapping[str, float]]
TWO = ("adam", "sgdm")  # those of sections 4.4 to 4.6
KEEP = ("1", "0.1", "0.3", "0.5", "0.7", "0.9")  # Table 2's p
# Table 3's rows: the arm, its name, and what numbers.json calls it.
REGULARIZED = (
    ("base", "No regularization", "none"),
    ("sd", "Standard dropout (SD)", "sd"),
    ("ng", "Noisy gradient (NG)", "ng"),
    ("nl", "Noisy label (NL)", "nl"),
    ("lrd", "Learning rate dropout (LRD)", "lrd"),
    ("lrd_sd", "LRD and SD", "lrd+sd"),
    ("lrd_ng", "LRD and NG", "lrd+ng"),
)
# Table 4's columns: p_sd and the arm; the first is no dropout at all.
KEEP_UNITS = {"1": "base", "0.9": "sd", "0.8": "sd_0.8", "0.7": "sd_0.7", "0.6": "sd_0.6"}


def pairs(experiment: str, paper: dict[str, dict[str, float]]) -> tuple[Group, ...]:
    """For every optimizer the cell without LRD and the cell with it."""
    arms = (("base", BASE), ("lrd", LRD))
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


def by_optimizer(title: str, head: str, experiment: str, rows: Iterable[Row]) -> Table:
    """The layout of Tables 2 and 3: a column each for Adam and SGDM."""
    return Table(
        title,
        (head,),
        tuple(OPTIMIZERS[optim] for optim in TWO),
        tuple(
            (
                (label,),
                tuple(
                    (Cell(experiment, (f"optim={optim}", setting), paper[optim]),) for optim in TWO
                ),
            )
            for label, setting, paper in rows
        ),
    )


def keep() -> Table:
    numbers = PAPER["table2"]["cells"]
    return by_optimizer(
        "Table 2. Test accuracy on CIFAR-10 (%) by keep probability",
        "p",
        "table2",
        (
            (f"{p} (no LRD)" if p == "1" else p, f"lrd.p={p}", {o: numbers[o][p] for o in TWO})
            for p in KEEP
        ),
    )


def regularized() -> Table:
    numbers = PAPER["table3"]["cells"]
    return by_optimizer(
        "Table 3. Test accuracy on CIFAR-10 (%) by regularization",
        "Regularization",
        "table3",
        ((name, f"+arm={arm}", numbers[key]) for arm, name, key in REGULARIZED),
    )


def keep_units() -> Table:
    numbers = PAPER["table4"]["cells"]["adam"]
    row = tuple((Cell("table4", (f"+arm={arm}",), numbers[p]),) for p, arm in KEEP_UNITS.items())
    return Table(
        "Table 4. Test accuracy on CIFAR-10 (%) by standard dropout's keep probability",
        ("p_sd",),
        tuple(f"{p} (no SD)" if p == "1" else p for p in KEEP_UNITS),
        ((("Adam",), row),),
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
    "table2": keep(),
    "table3": regularized(),
    "table4": keep_units(),
    "rmsprop_decay": controls.decay(),
    "lr_control": controls.control(),
    "lr_tuned": controls.tuned(),
    "quickstart": classification(
        "Test accuracy on the embedded digits (%), without / with learning rate dropout",
        {"quickstart": (("digits", "FCNet"), "")},
    ),
}
