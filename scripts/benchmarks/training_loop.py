"""Section ``loop``: images per second of training, against a plain PyTorch loop."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from lrd.training import builder
from scripts.benchmarks import measure
from scripts.benchmarks.datasets import IMAGE_SETS
from scripts.benchmarks.measure import ChildProcess, Options, Quartiles, Variant
from scripts.benchmarks.optimizers import OPTIMIZER_NAMES, P
from scripts.benchmarks.report import BenchmarkTable, Bound, Measurement, measurements
from scripts.benchmarks.workloads import (
    WARMUP_STEPS,
    TurnResult,
    Workload,
    alternate,
    image_rates,
    lrd_loop,
    make_model,
    plain_loop,
)

PLAIN, PLAIN_NAIVE = "plain PyTorch loop, no LRD", "plain PyTorch loop, naive LRD"
PLAIN_EXACT = "plain PyTorch loop, no LRD, switches of train=paper"
LRD_PAPER, LRD_FAST = "ours, train=paper", "ours, train=fast"
_OVERRIDES = {
    LRD_PAPER: ("train=paper", "lrd.implementation=auto"),
    LRD_FAST: ("train=fast", "lrd.implementation=auto"),
}
_WORKERS = 2
_CIFAR_EPOCHS, _MNIST_EPOCHS = 200, 100  # of the paper's runs
_MEASURED_EPOCHS = 2
_PRODUCT_SIZE = 8192  # side of the matrices that measure a GPU's rate
_log = logging.getLogger(__name__)


def measure_training(options: Options) -> Iterator[BenchmarkTable]:
    """Yield the tables of the CPU, or of the GPU."""
    if options.device.type == "cuda":
        for data, model in (("cifar10", "resnet34"), ("cifar100", "densenet121")):
            yield _compare_loops_on_gpu(options, Workload.of(options, data, model))
        return
    workload = Workload.of(options, "mnist", "fcnet")
    yield _compare_loops(options, workload)[0]
    if options.large:
        yield _compare_loops(options, Workload.of(options, "cifar10", "resnet18", steps=15))[0]
    yield _concurrent_runs(options, workload)
    yield _table1_row(options, workload)


def _compare_loops(
    options: Options, workload: Workload
) -> tuple[BenchmarkTable, dict[str, list[TurnResult]]]:
    """Train epochs of Adam in every loop; return the table and all turns."""
    _log.info("loop: %s", workload.describe())
    plain = {PLAIN: False, PLAIN_NAIVE: True}
    loops: dict[str, tuple[Any, ...]] = {
        label: (plain_loop, workload, naive, _WORKERS) for label, naive in plain.items()
    }
    gpu = options.device.type == "cuda"
    if gpu:  # on a CPU the switches change nothing
        loops[PLAIN_EXACT] = (plain_loop, workload, False, _WORKERS, True)
    loops |= {label: (lrd_loop, workload, lines) for label, lines in _OVERRIDES.items()}
    turns, memory = alternate(loops, options.rounds_or(5), workload.steps)
    targets = {LRD_FAST: Bound(">=", 3)} if gpu else {}
    rates = image_rates(turns)
    lines = measurements(rates, PLAIN, unit="images/s", memory=memory, targets=targets)
    counted = "tensors" if gpu else "resident beyond the imports, without a DataLoader's workers"
    records = {label: turns[label][-1].record.items() for label in _OVERRIDES}
    notes = [
        f"memory: peak, {counted}",
        f"plain PyTorch loop: torch's default Adam, {_WORKERS} workers; ours with LRD at p = {P}",
        *(f"{label}: {', '.join(map(' '.join, record))}" for label, record in records.items()),
    ]
    if gpu:
        notes.append(
            f"{PLAIN}: TF32 convolutions and cudnn.benchmark, which train=paper does not have; "
            f"{PLAIN_EXACT}: the same arithmetic as {LRD_PAPER}"
        )
    title = f"training {workload.describe()}"
    return BenchmarkTable("loop", title, PLAIN, lines, "higher", "MB", notes=notes), turns


def _compare_loops_on_gpu(options: Options, workload: Workload) -> BenchmarkTable:
    """Compare the loops, with minutes of a complete run and the share of the GPU's matrix rate."""
    table, turns = _compare_loops(options, workload)
    resnet = workload.model == "resnet34"
    minutes, share = (Bound("<", 8, "value"), Bound(">=", 35, "value")) if resnet else (None, None)
    for label in (PLAIN, LRD_PAPER, LRD_FAST):
        line = Measurement(f"{label}: {_CIFAR_EPOCHS} epochs", "min", [])
        line.samples = [_CIFAR_EPOCHS * turn.total_seconds / 60 for turn in turns[label]]
        line.target = minutes if label == LRD_FAST else None
        table.lines.append(line)
    peak, work = _matrix_rate(options), flops_per_image(workload)
    for label in (LRD_PAPER, LRD_FAST):
        shares = [100 * rate * work / peak for rate in image_rates(turns)[label]]
        line = Measurement(f"{label}: share of the GPU's matrix rate", "%", shares)
        line.target = share if label == LRD_FAST else None
        table.lines.append(line)
    table.notes += [
        f"matrix rate: {peak / 1e12:.0f} Tflop/s, bfloat16, {_PRODUCT_SIZE} x {_PRODUCT_SIZE}, "
        f"measured; forward and backward of an image: {work / 1e9:.2f} Gflop; epochs of ours "
        "include evaluation",
    ]
    return table


def _matrix_rate(options: Options) -> float:
    """Operations per second of a large bfloat16 matrix product."""
    size = 256 if options.quick else _PRODUCT_SIZE
    a, b = (torch.randn(size, size, device=options.device).bfloat16() for _ in range(2))
    variant, clock = Variant("product", lambda: a @ b), measure.clock_for(options.device)
    samples = measure.interleave([variant], 5, clock, options.turn_seconds)
    return 2 * size**3 / Quartiles.of(samples["product"]).median


def flops_per_image(workload: Workload) -> float:
    """Count the operations of forward and backward, operator by operator, without computing."""
    shape = IMAGE_SETS[workload.data].ours.shape
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        make_model(workload)(torch.empty(2, *shape)).sum().backward()
    return counter.get_total_flops() / 2


def _concurrent_runs(options: Options, workload: Workload) -> BenchmarkTable:
    """Compare two runs in parallel, on half of the threads each, with one run on all of them."""
    _log.info("loop: one process or two")
    half = max(1, options.threads // 2)
    one, two = f"one process, threads: {options.threads}", f"two processes, threads: {half} each"
    samples: dict[str, list[float]] = {one: [], two: []}
    with ExitStack() as stack:
        children = [
            stack.enter_context(ChildProcess(lrd_loop, load, _OVERRIDES[LRD_FAST]))
            for load in (replace(workload, threads=n) for n in (options.threads, half, half))
        ]
        for child in children:
            child.turn(WARMUP_STEPS)
        for _ in range(options.rounds_or(5)):
            samples[one].append(children[0].turn(workload.steps).images_per_second)
            for child in children[1:]:
                child.start_turn(workload.steps)
            turns = [child.finish_turn() for child in children[1:]]
            samples[two].append(sum(t.images for t in turns) / max(t.seconds for t in turns))
    lines = measurements(samples, one, unit="images/s")
    title = f"{LRD_FAST}, {workload.describe()}: runs in parallel"
    return BenchmarkTable("loop", title, one, lines, "higher")


@dataclass
class _MeasuredRun:
    """Seconds of one run: until its first steps are done, and of each measured epoch."""

    startup: float
    epochs: list[float]

    @property
    def minutes(self) -> float:
        """The extrapolated duration of a complete run."""
        return (self.startup + _MNIST_EPOCHS * sum(self.epochs) / len(self.epochs)) / 60


def _measure_runs(workload: Workload, runs: Sequence[Sequence[str]]) -> list[_MeasuredRun]:
    """Measure runs that train in parallel, one process each."""
    with ExitStack() as stack:
        started = time.perf_counter()
        children = [stack.enter_context(ChildProcess(lrd_loop, workload, run)) for run in runs]
        for child in children:
            child.start_turn(WARMUP_STEPS)
        measured = []
        for child in children:
            child.finish_turn()
            measured.append(_MeasuredRun(time.perf_counter() - started, []))
        for _ in range(_MEASURED_EPOCHS):
            for child in children:
                child.start_turn(workload.steps)
            for child, run in zip(children, measured, strict=True):
                run.epochs.append(child.finish_turn().total_seconds)
    return measured


def _table1_row(options: Options, workload: Workload) -> BenchmarkTable:
    """Extrapolate Table 1's MNIST row: 5 optimizers, without and with LRD, with evaluation."""
    names = OPTIMIZER_NAMES[:1] if options.quick else OPTIMIZER_NAMES
    target = Bound("<", 60, on="value")
    epochs: list[Measurement] = []
    totals: list[Measurement] = []
    for label, extra in _OVERRIDES.items():
        runs: list[_MeasuredRun] = []
        for name in names:
            _log.info("loop: Table 1's MNIST row, %s, %s", label, name)
            for arm, p in (("without", 1), ("with", P)):
                runs += _measure_runs(workload, [[*extra, f"optim={name}", f"lrd.p={p}"]])
                line = f"{label}: {name} {arm} LRD, an epoch"
                epochs.append(Measurement(line, "s", runs[-1].epochs))
        minutes, startup = sum(run.minutes for run in runs), sum(run.startup for run in runs) / 60
        totals.append(Measurement(f"{label}: the row", "min", [minutes], target=target))
        totals.append(Measurement(f"{label}: the row's start-up", "min", [startup]))
        with ChildProcess(matrix_product_seconds, workload, extra) as child:
            minutes = child.turn() * len(runs) * _MNIST_EPOCHS / 60
        totals.append(Measurement(f"{label}: matrix products alone", "min", [minutes]))
    label, extra = list(_OVERRIDES.items())[-1]
    halved, minutes = replace(workload, threads=max(1, options.threads // 2)), 0.0
    for name in names:
        _log.info("loop: Table 1's MNIST row, two runs at a time, %s", name)
        pair = [[*extra, f"optim={name}", f"lrd.p={p}"] for p in (1, P)]
        minutes += max(run.minutes for run in _measure_runs(halved, pair))
    line = f"{label}: the row, two runs at a time"
    totals.append(Measurement(line, "min", [minutes], target=target))
    notes = [
        f"{_MEASURED_EPOCHS} epochs of every run measured, times {_MNIST_EPOCHS}; start-up "
        "(imports, data, compiling) once a run",
        "matrix products alone: those of training and evaluation at the rate measured here, a "
        "lower bound for every loop that computes them",
    ]
    title = f"Table 1's MNIST row, {2 * len(names)} runs of {_MNIST_EPOCHS} epochs"
    return BenchmarkTable("loop", title, "", [*epochs, *totals], notes=notes)


def matrix_product_seconds(workload: Workload, overrides: Sequence[str]) -> Callable[[], float]:
    """Return a function that measures the matrix products of an epoch of FCNet, in seconds."""
    config = workload.config(overrides)
    parts = builder.build(config)
    layers = [module for module in parts.model.children() if isinstance(module, torch.nn.Linear)]
    data: Any = parts.task
    train, test = (len(split.index) for split in data.data.splits())

    def seconds(batch: int, backward: bool) -> float:
        variants = []
        for number, layer in enumerate(layers):
            w = layer.weight.detach().clone()
            x = torch.randn(batch, w.shape[1], device=parts.device)
            g = torch.randn(batch, w.shape[0], device=parts.device)
            variants.append(Variant(f"y{number}", lambda x=x, w=w: x @ w.T))
            if backward:
                variants.append(Variant(f"dw{number}", lambda x=x, g=g: g.T @ x))
            if backward and number:  # the images need no gradient
                variants.append(Variant(f"dx{number}", lambda w=w, g=g: g @ w))
        samples = measure.interleave(variants, 5, measure.Clock(), turn_seconds=0.02)
        return sum(Quartiles.of(numbers).median for numbers in samples.values())

    def turn() -> float:
        batch, large = workload.batch, min(config.eval.batch_size, test)
        return train / batch * seconds(batch, True) + test / large * seconds(large, False)

    return turn
