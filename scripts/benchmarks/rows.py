"""The MNIST row of Table 1, extrapolated from two epochs a cell, and what bounds it from below."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch

from benchmarks import optimizers as opt
from benchmarks.children import Child, Turn
from benchmarks.options import Options
from benchmarks.results import Line, Table, Target
from benchmarks.timing import Clock, Form, Spread, interleave
from benchmarks.workloads import Workload, ours
from lrd.config import compose
from lrd.training import builder

EPOCHS, MEASURED = 100, 2
WARM = 4  # steps of a first turn, which loads the data and compiles
MINUTES = Target("<", 60, on="value")


def with_threads(workload: Workload, threads: int) -> Workload:
    return replace(workload, threads=threads)


@dataclass
class Cell:
    """Seconds of one run: until its first steps are done, and of each measured epoch."""

    start: float
    epochs: list[float]

    @property
    def minutes(self) -> float:
        return (self.start + EPOCHS * sum(self.epochs) / len(self.epochs)) / 60


def measure(workload: Workload, runs: Sequence[Sequence[str]]) -> list[Cell]:
    """Cells that run at the same time, each in a process."""
    with ExitStack() as stack:
        began = time.perf_counter()
        children = [stack.enter_context(Child(ours, workload, lines)) for lines in runs]
        for child in children:
            child.ask(WARM)
        made = []
        for child in children:
            child.answer()
            made.append(Cell(time.perf_counter() - began, []))
        for _ in range(MEASURED):
            for child in children:
                child.ask(workload.steps)
            for child, cell in zip(children, made, strict=True):
                cell.epochs.append(child.answer()["whole"])
    return made


def row(options: Options, workload: Workload, overrides: Mapping[str, Sequence[str]]) -> Table:
    """Minutes of 5 optimizers x {without, with} LRD x 100 epochs, evaluation included."""
    names = opt.NAMES[:1] if options.quick else opt.NAMES
    lines: list[Line] = []
    totals: list[Line] = []
    for label, extra in overrides.items():
        cells = {}
        for name in names:
            options.say(f"loop: Table 1's MNIST row, {label}, {name}")
            runs = [[*extra, f"optim={name}", f"lrd.p={p}"] for p in (1, opt.P)]
            cells[name] = [measure(workload, [run])[0] for run in runs]
        for name, pair in cells.items():
            for cell, arm in zip(pair, ("without", "with"), strict=True):
                lines.append(Line(f"{label}: {name} {arm} LRD, an epoch", "s", cell.epochs))
        flat = [cell for pair in cells.values() for cell in pair]
        totals += totals_of(options, label, flat)
        bound = Child(matrix_products, workload, extra)
        with bound:
            minutes = bound.turn() * len(flat) * EPOCHS / 60
        totals.append(Line(f"{label}: matrix products alone", "min", [minutes]))
    totals += side_by_side(options, workload, names, overrides)
    notes = [
        f"{MEASURED} epochs a cell measured, times {EPOCHS}; start-up (imports, data, compiling) "
        "once a run",
        "matrix products alone: those of training and evaluation at the rate measured here, which "
        "no loop that computes them can beat",
    ]
    title = f"Table 1's MNIST row, {2 * len(names)} runs of {EPOCHS} epochs"
    return Table("loop", title, "", [*lines, *totals], notes=notes)


def totals_of(options: Options, label: str, cells: Sequence[Cell]) -> list[Line]:
    """The whole row one run after the other, and how much of it is start-up."""
    whole = sum(cell.minutes for cell in cells)
    start = sum(cell.start for cell in cells) / 60
    return [
        Line(f"{label}: the row", "min", [whole], target=MINUTES, judged=options.judged),
        Line(f"{label}: of that, start-up", "min", [start]),
    ]


def side_by_side(
    options: Options,
    workload: Workload,
    names: Sequence[str],
    overrides: Mapping[str, Sequence[str]],
) -> list[Line]:
    """The row with each pair of cells at the same time, on half of the threads each."""
    label, extra = list(overrides.items())[-1]
    halved, total = with_threads(workload, max(1, options.threads // 2)), 0.0
    for name in names:
        options.say(f"loop: Table 1's MNIST row, two runs at once, {name}")
        runs = [[*extra, f"optim={name}", f"lrd.p={p}"] for p in (1, opt.P)]
        total += max(cell.minutes for cell in measure(halved, runs))
    what = f"{label}: the row, two runs at a time"
    return [Line(what, "min", [total], target=MINUTES, judged=options.judged)]


def matrix_products(workload: Workload, overrides: Sequence[str]) -> Turn:
    """Seconds of an epoch's matrix products of FCNet, under the settings of ``overrides``."""
    settings = compose.to_config(compose.compose([*workload.overrides(), *overrides]))
    made, _ = builder.build(settings)
    device, layers = made["device"], [m for m in made["model"] if isinstance(m, torch.nn.Linear)]
    train, test = (len(split.index) for split in made["task"].data.splits())

    def seconds(batch: int, backward: bool) -> float:
        forms = []
        for number, layer in enumerate(layers):
            w = layer.weight.detach().clone()
            x = torch.randn(batch, w.shape[1], device=device)
            g = torch.randn(batch, w.shape[0], device=device)
            forms.append(Form(f"y{number}", lambda x=x, w=w: x @ w.T))
            if backward:
                forms.append(Form(f"dw{number}", lambda x=x, g=g: g.T @ x))
            if backward and number:  # the images need no gradient
                forms.append(Form(f"dx{number}", lambda w=w, g=g: g @ w))
        samples = interleave(forms, 5, Clock(), least=0.02)
        return sum(Spread.of(numbers).median for numbers in samples.values())

    def turn() -> float:
        batch, large = workload.batch, min(settings.eval.batch_size, test)
        return train / batch * seconds(batch, True) + test / large * seconds(large, False)

    return turn
