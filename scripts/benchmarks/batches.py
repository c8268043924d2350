"""Section ``data``: images per second of the batches alone, with nothing trained on them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks import stand_in
from benchmarks.children import Child, Turn
from benchmarks.loops import alternate, rates
from benchmarks.options import Options
from benchmarks.results import Table, lines_of
from benchmarks.timing import Clock
from benchmarks.workloads import Turned, Workload
from lrd import build, config

OURS, BASELINE = "ours, resident", "DataLoader, 2 workers"
LOADERS = {"DataLoader, 0 workers": 0, BASELINE: 2}
SETS = (("mnist", "fcnet"), ("cifar10", "resnet18"))


def section(options: Options) -> Iterator[Table]:
    for data, model in SETS:
        yield loading(options, Workload.of(options, data, model))


def loading(options: Options, workload: Workload) -> Table:
    """Whole epochs of each way to load by turns."""
    options.say(f"data: {workload.data}")
    with ExitStack() as stack:
        children = {
            label: stack.enter_context(Child(loader, workload, workers))
            for label, workers in LOADERS.items()
        }
        children[OURS] = stack.enter_context(Child(resident, workload))
        turns = alternate(children, options.how_many(5), workload.steps)
        memory = {label: (child.memory() or 0) / 1e6 for label, child in children.items()}
    lines = lines_of(rates(turns), BASELINE, unit="images/s", memory=memory, judged=options.judged)
    images = "random images" if workload.images else "real images"
    title = f"batches of {workload.batch} of {workload.data}, {images}"
    notes = ["shuffled, augmented, normalised and on the device; the start of workers included"]
    return Table("data", title, BASELINE, lines, "higher", "MB", notes=notes)


def resident(workload: Workload) -> Turn:
    """The batches that our loop trains on."""
    parts, _ = build.parts(config.read(config.compose(workload.overrides())))
    task, device = parts["task"], parts["device"]
    epoch = iter(range(2**31))
    return timed(lambda: ((len(b), b.inputs) for b in task.train_batches(next(epoch))), device)


def loader(workload: Workload, workers: int) -> Turn:
    """torchvision's data set in a DataLoader."""
    torch.set_num_threads(workload.threads)
    device = torch.device(workload.device)
    count = None if workload.images is None else workload.images[0]
    data = stand_in.ordinary(workload.data, workload.root, count)
    batches: DataLoader[Any] = DataLoader(data, workload.batch, shuffle=True, num_workers=workers)
    return timed(lambda: ((len(x), (x.to(device), y.to(device))) for x, y in batches), device)


def timed(batches: Callable[[], Iterable[tuple[int, Any]]], device: torch.device) -> Turn:
    """A turn that goes through ``batches()``, or the first ``steps`` of them, and drops them."""

    def turn(steps: int | None) -> Turned:
        clock = Clock()
        clock.start()
        images = sum(count for count, _ in islice(batches(), steps))
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = clock.stop()
        return {"images": images, "seconds": seconds, "whole": seconds}

    return turn
