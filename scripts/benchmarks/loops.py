"""Section ``loop``: images per second of training, against the loop as people write it."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import optimizers as opt
from benchmarks import rows, stand_in
from benchmarks.children import Child
from benchmarks.options import Options
from benchmarks.results import Line, Table, Target, lines_of
from benchmarks.timing import Form, Spread, clock_of, interleave
from benchmarks.workloads import Turned, Workload, network, ordinary, ours

ORDINARY, AUTHORS = "ordinary loop, no LRD", "ordinary loop, authors' style LRD"
PAPER, FAST = "ours, train=paper", "ours, train=fast"
OVERRIDES = {
    PAPER: ("train=paper", "lrd.implementation=auto"),
    FAST: ("train=fast", "lrd.implementation=auto"),
}
WORKERS = 2
EPOCHS = 200  # of the paper's CIFAR runs
FASTER = Target(">=", 3)
MINUTES = Target("<", 8, on="value")
RATE = Target(">=", 35, on="value")


def section(options: Options) -> Iterator[Table]:
    if options.device.type == "cuda":
        for data, model in (("cifar10", "resnet34"), ("cifar100", "densenet121")):
            yield on_card(options, Workload.of(options, data, model))
        return
    workload = Workload.of(options, "mnist", "fcnet")
    yield against_ordinary(options, workload)[0]
    if options.large:
        yield against_ordinary(options, Workload.of(options, "cifar10", "resnet18", steps=15))[0]
    yield cells(options, workload)
    yield rows.row(options, workload, OVERRIDES)


def alternate(
    children: Mapping[str, Child], rounds: int, steps: int | None
) -> dict[str, list[Turned]]:
    """Turns of each child by turns, after a short one of each that loads and compiles."""
    for child in children.values():
        child.turn(rows.WARM)
    turns: dict[str, list[Turned]] = {label: [] for label in children}
    for _ in range(rounds):
        for label, child in children.items():
            turns[label].append(child.turn(steps))
    return turns


def rates(turns: Mapping[str, list[Turned]]) -> dict[str, list[float]]:
    """Images per second of training in each turn."""
    return {label: [t["images"] / t["seconds"] for t in ts] for label, ts in turns.items()}


def how(turns: list[Turned]) -> str:
    return ", ".join(f"{name} {value}" for name, value in turns[-1]["how"].items())


def against_ordinary(options: Options, workload: Workload) -> tuple[Table, dict[str, list[Turned]]]:
    """Whole epochs of each loop by turns, on Adam; and what each turn took."""
    options.say(f"loop: {workload.describe()}")
    with ExitStack() as stack:
        children = {
            ORDINARY: Child(ordinary, workload, ORDINARY, WORKERS),
            AUTHORS: Child(ordinary, workload, opt.AUTHORS, WORKERS),
            **{label: Child(ours, workload, lines) for label, lines in OVERRIDES.items()},
        }
        for child in children.values():
            stack.enter_context(child)
        turns = alternate(children, options.how_many(5), workload.steps)
        memory = {label: (child.memory() or 0) / 1e6 for label, child in children.items()}
    gpu = options.device.type == "cuda"
    lines = lines_of(
        rates(turns),
        ORDINARY,
        unit="images/s",
        memory=memory,
        targets={FAST: FASTER} if gpu else {},
        judged=options.judged,
    )
    counted = "tensors" if gpu else "resident beyond the imports, a DataLoader's workers apart"
    notes = [
        f"memory: at most, {counted}",
        f"the ordinary loop: torch's default Adam, {WORKERS} workers; ours with LRD at p = 0.5",
        *(f"{label}: {how(turns[label])}" for label in OVERRIDES),
    ]
    title = f"training {workload.describe()}"
    return Table("loop", title, ORDINARY, lines, "higher", "MB", notes=notes), turns


def on_card(options: Options, workload: Workload) -> Table:
    """The loops on a GPU, with the time of a whole run and the share of the card's matrix rate."""
    table, turns = against_ordinary(options, workload)
    resnet = workload.model == "resnet34"
    for label in (ORDINARY, PAPER, FAST):
        minutes = [EPOCHS * turn["whole"] / 60 for turn in turns[label]]
        line = Line(f"{label}: {EPOCHS} epochs", "min", minutes, judged=options.judged)
        line.target = MINUTES if resnet and label == FAST else None
        table.lines.append(line)
    peak, work = matrix_rate(options), flops_per_image(workload)
    for label in (PAPER, FAST):
        share = [100 * rate * work / peak for rate in rates(turns)[label]]
        line = Line(f"{label}: of the card's matrix rate", "%", share, judged=options.judged)
        line.target = RATE if resnet and label == FAST else None
        table.lines.append(line)
    table.notes += [
        f"matrix rate: {peak / 1e12:.0f} Tflop/s, bfloat16, {SIZE} x {SIZE}, measured; forward and "
        f"backward of an image: {work / 1e9:.2f} Gflop; ours' epochs with evaluation",
    ]
    return table


SIZE = 8192


def matrix_rate(options: Options) -> float:
    """Operations per second of a large bfloat16 matrix product."""
    size = 256 if options.quick else SIZE
    a, b = (torch.randn(size, size, device=options.device).bfloat16() for _ in range(2))
    clock = clock_of(options.device)
    samples = interleave([Form("product", lambda: a @ b)], 5, clock, options.least)
    return 2 * size**3 / Spread.of(samples["product"]).median


def flops_per_image(workload: Workload) -> float:
    """Of forward and backward, counted operator by operator; nothing is computed."""
    shape = stand_in.KINDS[workload.data].shape
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network(workload)(torch.empty(2, *shape)).sum().backward()
    return counter.get_total_flops() / 2


def cells(options: Options, workload: Workload) -> Table:
    """Two runs at once with half of the threads each, against one run with all of them."""
    options.say("loop: one process or two")
    half = max(1, options.threads // 2)
    one, two = f"one process, threads: {options.threads}", f"two processes, threads: {half} each"
    samples: dict[str, list[float]] = {one: [], two: []}
    with ExitStack() as stack:
        whole, *pair = (
            stack.enter_context(Child(ours, rows.with_threads(workload, n), OVERRIDES[FAST]))
            for n in (options.threads, half, half)
        )
        for child in (whole, *pair):
            child.turn(rows.WARM)
        for _ in range(options.how_many(5)):
            alone = whole.turn(workload.steps)
            samples[one].append(alone["images"] / alone["seconds"])
            for child in pair:
                child.ask(workload.steps)
            both = [child.answer() for child in pair]
            images, seconds = sum(t["images"] for t in both), max(t["seconds"] for t in both)
            samples[two].append(images / seconds)
    lines = lines_of(samples, one, unit="images/s", judged=options.judged)
    return Table("loop", f"{FAST}, {workload.describe()}: runs side by side", one, lines, "higher")
