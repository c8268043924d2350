"""What the paper's figures of learning curves look like, and the configuration behind a curve."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from layout import TABLES, TWO
from looks import GRADIENTS, HUES, KEPT, REGULARIZERS, UNITS_KEPT, Line, Looks
from tabular import BASE, LRD, OPTIMIZERS, PAPER, Cell, Table


@dataclass(frozen=True)
class Panel:
    """A metric of metrics.jsonl against epochs, in ``digits`` where the paper prints it.

    ``final`` is the same score by another evaluation, which the last epoch alone may have, and
    ``final_label`` what that one is called.
    """

    key: str
    label: str
    unit: str = ""
    digits: int = 2
    log: bool = False
    final: str = ""
    final_label: str = ""


@dataclass(frozen=True)
class Curve:
    """The runs of one configuration; a solid line has filled markers, any other has open ones.

    ``paper``: the final values that the paper prints, by the panel's key, called ``short`` there.
    """

    label: str
    short: str
    cell: Cell
    color: str
    line: Line = "-"
    marker: str = "o"
    paper: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Published:
    """One run that others published: a file in scripts/paper, its columns named as our metrics."""

    label: str
    file: str
    batches: int  # an epoch's, over which its train_loss_sum is a sum


@dataclass(frozen=True)
class Group:
    """Curves that share a panel."""

    label: str
    curves: tuple[Curve, ...]
    published: tuple[Published, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A panel for every metric and group; ``across`` are those that stand side by side."""

    title: str
    panels: tuple[Panel, ...]
    groups: tuple[Group, ...]
    across: Literal["panels", "groups"] = "panels"

    def curves(self) -> list[Curve]:
        return [curve for group in self.groups for curve in group.curves]


Columns = Mapping[str, Sequence[Cell]]
LEARNING = (
    Panel("train_loss", "Training loss", log=True),
    Panel("train_accuracy", "Training accuracy", "%"),
    Panel("test_accuracy", "Test accuracy", "%"),
)
Arms = Mapping[str, Mapping[str, float]]  # the paper's numbers by arm and by metric


def pair(experiment: str, optim: str, labels: tuple[str, str], paper: Arms) -> tuple[Curve, Curve]:
    """An optimizer without LRD, dashed, and with it, solid, in its hue."""
    without, dropped = (Cell(experiment, (f"optim={optim}", p)) for p in (BASE, LRD))
    base, lrd = paper.get("base", {}), paper.get("lrd", {})
    return (
        Curve(labels[0], "base", without, HUES[optim], "--", "o", base),
        Curve(labels[1], "LRD", dropped, HUES[optim], "-", "s", lrd),
    )


def classification(
    title: str, experiment: str, row: str, published: Mapping[str, Published]
) -> Figure:
    """Figures 5 to 7: a column for every optimizer; ``row`` is Table 1's."""
    groups = []
    for optim, name in OPTIMIZERS.items():
        printed = PAPER["table1"]["cells"][row][optim]
        paper = {arm: {"test_accuracy": value} for arm, value in printed.items()}
        curves = pair(experiment, optim, ("without LRD", "LRD p = 0.5"), paper)
        groups.append(Group(name, curves, tuple(p for o, p in published.items() if o == optim)))
    return Figure(title, LEARNING, tuple(groups), across="groups")


def variants(title: str, looks: Looks, columns: Columns) -> Figure:
    """Figures 10 to 13: a row of panels for every optimizer, and in each a curve for every look."""
    groups = []
    for name, cells in columns.items():
        curves = []
        for (label, color, line, marker), cell in zip(looks, cells, strict=True):
            paper = {} if cell.paper is None else {"test_accuracy": cell.paper}
            curves.append(Curve(label, label, cell, color, line, marker, paper))
        groups.append(Group(name, tuple(curves)))
    return Figure(title, LEARNING, tuple(groups))


def columns(table: Table) -> Columns:
    """A table's cells by column."""
    groups = zip(*(groups for _, groups in table.rows), strict=True)
    return {c: [cell for (cell,) in group] for c, group in zip(table.columns, groups, strict=True)}


def arms(experiment: str, table: Table, names: Sequence[str]) -> Columns:
    """The cells of arms in an experiment, with what the paper prints in ``table`` for them."""
    printed = {cell.overrides: cell.paper for cell in table.cells()}
    found = {}
    for optim in TWO:
        asked = [(f"optim={optim}", f"+arm={name}") for name in names]
        found[OPTIMIZERS[optim]] = [Cell(experiment, a, printed.get(a)) for a in asked]
    return found


def segmentation(title: str, experiment: str) -> Figure:
    """Figure 8. The paper prints fractions; they are shown in percent, as the metrics are."""
    panels = tuple(
        Panel(
            f"val_whole_{key}",
            label,
            "%",
            digits=1,
            final=f"val_sliding_{key}",
            final_label="sliding window",
        )
        for key, label in (("miou", "Mean IoU"), ("pixel_accuracy", "Pixel accuracy"))
    )
    paper = {
        arm: {f"val_whole_{key}": round(100 * value, 1) for key, value in printed.items()}
        for arm, printed in PAPER["segmentation"]["cells"].items()
    }
    return Figure(
        title, panels, (Group("", pair(experiment, "adam", ("Adam", "Adam, LRD p = 0.5"), paper)),)
    )


def detection(title: str, experiment: str) -> Figure:
    """Figure 9, of which the paper prints no number."""
    panels = (Panel("train_loss", "Training loss"), Panel("test_loss", "Validation loss"))
    curves = pair(experiment, "adam", ("Adam", "Adam, LRD p = 0.5"), {})
    return Figure(title, panels, (Group("", curves),))


AUTHORS = Published("authors' LRD run (n = 1)", "authors_cifar10_sgdm_lrd.csv", batches=391)
FIGURES = {
    "figure5": classification(
        "Figure 5. FCNet on MNIST, without and with learning rate dropout",
        "table1_mnist",
        "mnist/fcnet",
        {},
    ),
    "figure6": classification(
        "Figure 6. ResNet-34 on CIFAR-10, without and with learning rate dropout",
        "table1_cifar10",
        "cifar10/resnet34",
        {"sgdm": AUTHORS},
    ),
    "figure7": classification(
        "Figure 7. DenseNet-121 on CIFAR-100, without and with learning rate dropout",
        "table1_cifar100",
        "cifar100/densenet121",
        {},
    ),
    "figure8": segmentation(
        "Figure 8. PSPNet on VOC2012 segmentation, without and with learning rate dropout",
        "figure8",
    ),
    "figure9": detection(
        "Figure 9. SSD on VOC2007 test, without and with learning rate dropout", "figure9"
    ),
    "figure10": variants(
        "Figure 10. ResNet-34 on CIFAR-10, by keep probability p",
        KEPT,
        columns(TABLES["table2"]),
    ),
    "figure11": variants(
        "Figure 11. ResNet-34 on CIFAR-10, by regularization",
        REGULARIZERS,
        columns(TABLES["table3"]),
    ),
    "figure12": variants(
        "Figure 12. ResNet-34 on CIFAR-10: dropout on the update (LRD) and on the gradient (DG)",
        GRADIENTS,
        arms("figure12", TABLES["table3"], ("base", "lrd", "dg")),
    ),
    "figure13": variants(
        "Figure 13. ResNet-34 on CIFAR-10, by standard dropout's keep probability p_sd",
        UNITS_KEPT,
        {"Adam": TABLES["table4"].cells()},
    ),
}
