"""Section ``growth``: how the cost of a step grows, one thing varied at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks import optimizers as opt
from benchmarks.memory import in_use
from benchmarks.options import Options
from benchmarks.results import Line, Table, lines_of
from benchmarks.subjects import Subject, check_path, step_memory
from benchmarks.timing import Form, clock_of, interleave
from benchmarks.workloads import Workload, ours

NAME = "adam"
COUNT = 5_000_000


def section(options: Options) -> Iterator[Table]:
    count = COUNT // 100 if options.quick else COUNT
    counts = [10**4, 10**5] if options.quick else [10**5, 10**6, 10**7, 10**8]
    tensors = [1, 10] if options.quick else [1, 5, 20, 100, 500]
    keep = [0.1, 0.9] if options.quick else [0.1, 0.3, 0.5, 0.7, 0.9]
    points = [Point(n, split(n, 10)) for n in counts]
    yield sweep(options, "parameters", "number of parameters, in 10 tensors", points)
    points = [Point(n, split(count, n)) for n in tensors]
    yield sweep(options, "tensors", f"number of tensors, {count:,} parameters in all", points)
    points = [Point(p, split(count, 100), p) for p in keep]
    yield sweep(options, "p", f"keep probability, {count:,} parameters in 100 tensors", points)
    yield batch_sizes(options)


@dataclass(frozen=True)
class Point:
    """One place of a sweep: ``x``, and the step that is measured there."""

    x: float
    sizes: list[torch.Size]
    p: float = opt.P


def split(count: int, tensors: int) -> list[torch.Size]:
    """Shapes of ``tensors`` vectors that have ``count`` elements together, of multiples of 4."""
    each = max(4, count // tensors // 4 * 4)
    return [torch.Size([each])] * tensors


def sweep(options: Options, x: str, title: str, points: Sequence[Point]) -> Table:
    """A step of fused Adam, of LRD's generic path and of its single pass, at each point."""
    device, labels = options.device, [opt.FUSED, *opt.lrd_forms(options.device)[-2:]]
    lines: list[Line] = []
    for point in points:
        options.say(f"growth: {x} {point.x:g}")
        subjects = {
            label: Subject.of(NAME, label, point.sizes, device, point.p) for label in labels
        }
        forms = [Form(label, subject.optimizer.step) for label, subject in subjects.items()]
        samples = interleave(forms, options.how_many(7), clock_of(device), options.least)
        check_path(subjects)
        del subjects, forms
        memory = {label: step_memory(NAME, label, point.sizes, device)[0] for label in labels}
        made = lines_of(samples, opt.FUSED, unit="ms", scale=1000, memory=memory)
        lines += [replace(line, x=point.x) for line in made]
    title = f"{NAME}'s step by {title}"
    return Table("growth", title, opt.FUSED, lines, memory="B/param", x=x)


def batch_sizes(options: Options) -> Table:
    """Training by our loop without LRD and with either path of it, by the batch size."""
    sizes = [16, 32] if options.quick else [32, 64, 128, 256, 512, 1024]
    arms = {"no LRD": ["lrd.p=1"]}
    for label, path in ((opt.COMPILED, "generic"), (opt.SINGLE, "single_pass")):
        if label in opt.lrd_forms(options.device):
            arms[label] = [f"lrd.implementation={path}"]
    base = Workload.of(options, "mnist", "fcnet")
    lines: list[Line] = []
    for size in sizes:
        options.say(f"growth: batch {size}")
        workload = replace(base, batch=size, extra=(*base.extra, f"eval.batch_size={size}"))
        # In this process: the arms differ in nothing that is set for a whole process.
        turns = {label: ours(workload, ["train=paper", *extra]) for label, extra in arms.items()}
        steps = 2 if options.quick else max(10, 12_800 // size)
        samples: dict[str, list[float]] = {label: [] for label in arms}
        for number in range(1 + options.how_many(5)):
            for label, turn in turns.items():
                done = turn(steps)
                if number:  # the first warms up
                    samples[label].append(done["images"] / done["seconds"])
        memory = {label: training_memory(workload, extra) for label, extra in arms.items()}
        made = lines_of(samples, "no LRD", unit="images/s", memory=memory)
        lines += [replace(line, x=size) for line in made]
    title = f"training {base.title} (train=paper) by the batch size"
    return Table("growth", title, "no LRD", lines, "higher", "MB", "batch size")


def training_memory(workload: Workload, extra: Sequence[str]) -> float:
    """MB of tensors at most while our loop trains, on one batch so that data count little."""
    toy = replace(workload, images=(workload.batch, workload.batch))
    device = torch.device(workload.device)

    def make() -> Callable[[], object]:
        turn = ours(toy, ["train=paper", *extra])
        return lambda: turn(None)

    return in_use(make, device)[0] / 1e6
