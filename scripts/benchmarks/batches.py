"""Section ``data``: images per second of the batches alone, with nothing trained on them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks import stand_in
from benchmarks.children import Child, Turn
from benchmarks.loops import alternate, rates
from benchmarks.options import Options
from benchmarks.photos import Photos
from benchmarks.results import Table, lines_of
from benchmarks.timing import Clock
from benchmarks.workloads import Turned, Workload
from lrd.config import compose
from lrd.training import builder
from tasks import shapes

OURS, BASELINE = "ours, resident", "DataLoader, 2 workers"
LOADERS = {"DataLoader, 0 workers": 0, BASELINE: 2}
SETS = (("mnist", "fcnet"), ("cifar10", "resnet18"))
PIL = {workers: f"PIL in a DataLoader, {workers} workers" for workers in (0, 2)}
KEPT = {workers: f"ours, {workers} workers" for workers in PIL}


def section(options: Options) -> Iterator[Table]:
    for data, model in SETS:
        yield loading(options, Workload.of(options, data, model))
    yield photos(options)


def loading(options: Options, workload: Workload) -> Table:
    """Whole epochs of each way to load by turns."""
    options.say(f"data: {workload.data}")
    with ExitStack() as stack:
        children = {
            label: stack.enter_context(Child(loader, workload, workers))
            for label, workers in LOADERS.items()
        }
        children[OURS] = stack.enter_context(Child(ours, workload))
        turns = alternate(children, options.how_many(5), workload.steps)
        memory = {label: (child.memory() or 0) / 1e6 for label, child in children.items()}
    lines = lines_of(rates(turns), BASELINE, unit="images/s", memory=memory, judged=options.judged)
    images = "random images" if workload.images else "real images"
    title = f"batches of {workload.batch} of {workload.data}, {images}"
    notes = ["shuffled, augmented, normalised and on the device; the start of workers included"]
    return Table("data", title, BASELINE, lines, "higher", "MB", notes=notes)


def photos(options: Options) -> Table:
    """Whole epochs of photos with masks, each decoded and augmented by itself."""
    workload, crop = with_masks(options)
    options.say(f"data: {workload.data}")
    with ExitStack() as stack:
        children = {
            label: stack.enter_context(Child(by_pil, workload, crop, workers))
            for workers, label in PIL.items()
        }
        for workers, label in KEPT.items():
            child = Child(ours, workload, f"data.workers={workers}")
            children[label] = stack.enter_context(child)
        turns = alternate(children, options.how_many(5), workload.steps)
    lines = lines_of(rates(turns), PIL[2], unit="images/s", judged=options.judged)
    title = f"batches of {workload.batch} of {workload.title}, crop {crop}"
    notes = [
        "shuffled, augmented, normalised and on the device; the DataLoader starts its workers in "
        "every epoch, which is included, ours start once, before the turns",
        f"a turn: {turns[PIL[2]][-1]['images']} images",
    ]
    return Table("data", title, PIL[2], lines, "higher", notes=notes)


def with_masks(options: Options) -> tuple[Workload, int]:
    """Segmentation, and the side of its crops: what there is of VOC2012's own training images,
    else the embedded shapes."""
    real = not options.quick and stand_in.at_hand("voc_seg", options.root)
    crop = 33 if options.quick else 473 if real else 97
    extra = ["model.weights=none", f"dataset.crop={crop}"]
    if real:
        extra += ["dataset.partial=true", "dataset.sbd=false"]
    made = Workload(
        "voc_seg, real images" if real else "the embedded shapes",
        "voc_seg" if real else "shapes_seg",
        "pspnet18",
        options.device.type,
        options.threads,
        options.root,
        batch=8 if options.quick else 16,
        steps=4 if options.quick else None,
        extra=tuple(extra),
    )
    return made, crop


def ours(workload: Workload, *overrides: str) -> Turn:
    """The batches that our loop trains on; a short turn is an epoch's end, behind which no worker
    reads ahead."""
    settings = compose.to_config(compose.compose([*workload.overrides(), *overrides]))
    parts, _ = builder.build(settings)
    task, device, epochs = parts["task"], parts["device"], count()

    def batches(steps: int | None) -> Iterator[tuple[int, Any]]:
        start = 0 if steps is None else max(0, task.steps_per_epoch - steps)
        return ((len(b), b.inputs) for b in task.train_batches(next(epochs), start))

    return Timed(batches, device, task.close)


def loader(workload: Workload, workers: int) -> Turn:
    """torchvision's data set in a DataLoader."""
    images = None if workload.images is None else workload.images[0]
    data = stand_in.ordinary(workload.data, workload.root, images)
    return loaded(DataLoader(data, workload.batch, shuffle=True, num_workers=workers), workload)


def by_pil(workload: Workload, crop: int, workers: int) -> Turn:
    """The photos in a DataLoader as people set it up for segmentation."""
    own = workload.data == "shapes_seg"
    root = shapes.folder() if own else Path(workload.root).expanduser()
    batches: DataLoader[Any] = DataLoader(
        Photos(root, crop),
        workload.batch,
        shuffle=True,
        num_workers=workers,
        pin_memory=workload.device == "cuda",
        drop_last=True,
    )
    return loaded(batches, workload)


def loaded(batches: DataLoader[Any], workload: Workload) -> Turn:
    """Through a DataLoader's batches, sent to the device."""
    torch.set_num_threads(workload.threads)
    device = torch.device(workload.device)

    def sent(_: int | None) -> Iterator[tuple[int, Any]]:
        return ((len(x), (x.to(device), y.to(device))) for x, y in batches)

    return Timed(sent, device)


@dataclass
class Timed:
    """A turn that goes through ``batches(steps)``, or the first ``steps`` of them, and drops them.
    ``close`` ends what was started for it."""

    batches: Callable[[int | None], Iterable[tuple[int, Any]]]
    device: torch.device
    close: Callable[[], None] = lambda: None

    def __call__(self, steps: int | None) -> Turned:
        clock = Clock()
        clock.start()
        images = sum(number for number, _ in islice(self.batches(steps), steps))
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = clock.stop()
        return {"images": images, "seconds": seconds, "whole": seconds}
