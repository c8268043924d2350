"""Section ``data``: images per second and CPU time of the batches alone, without training."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lrd.training import builder
from scripts.benchmarks.datasets import (
    OpenCVBoxes,
    OpenCVPhotos,
    Photos,
    is_on_disk,
    torchvision_dataset,
)
from scripts.benchmarks.measure import Clock, Options
from scripts.benchmarks.report import BenchmarkTable, Bound, measurements
from scripts.benchmarks.workloads import TurnResult, Workload, alternate, image_rates
from tasks.data.synthetic_shapes import SHAPE_CLASSES, shapes_root
from tasks.voc_boxes import VOCBoxes

_log = logging.getLogger(__name__)
BOXES_SIDE = 300  # of SSD300's images


def measure_loading(options: Options) -> Iterator[BenchmarkTable]:
    """Yield the tables of CPU time for photos, then one of images per second for each data set."""
    yield crops_cost_table(options)
    yield boxes_cost_table(options)
    for data, model in (("mnist", "fcnet"), ("cifar10", "resnet18")):
        workload = Workload.of(options, data, model)
        loaders: dict[str, tuple[Any, ...]] = {
            f"DataLoader, {n} workers": (torchvision_batches, workload, n) for n in (0, 2)
        }
        loaders["ours, resident"] = (task_batches, workload)
        title = f"batches of {workload.batch} of {data}, {workload.describe_images()}"
        notes = ["shuffled, augmented, normalized and on the device; includes the start of workers"]
        yield _loading_table(options, workload, title, loaders, notes, memory="MB")
    yield photos_table(options)


def photos_table(options: Options) -> BenchmarkTable:
    """Return the table of photos with masks, each decoded and augmented on its own."""
    workload, crop = photos_workload(options)
    loaders: dict[str, tuple[Any, ...]] = {
        f"PIL in a DataLoader, {n} workers": (pil_batches, workload, crop, n) for n in (0, 2)
    }
    for n in (0, 2):
        loaders[f"ours, {n} workers"] = (task_batches, workload, f"data.workers={n}")
    title = f"batches of {workload.batch} of {workload.title}, crop {crop}"
    notes = [
        "shuffled, augmented, normalized and on the device; the DataLoader starts its workers in "
        "every epoch, which is included; ours start once, before the turns"
    ]
    return _loading_table(options, workload, title, loaders, notes)


def crops_cost_table(options: Options) -> BenchmarkTable:
    """Return the table of CPU time for photos with masks, beside OpenCV as semseg uses it."""
    workload, crop = photos_workload(replace(options, device=torch.device("cpu"), threads=1))
    reference = (opencv_crops, workload, crop)
    return _cost_table(options, workload, f"crop {crop}", reference, "semseg")


def boxes_cost_table(options: Options) -> BenchmarkTable:
    """Return the table of CPU time for photos with boxes, beside OpenCV as ssd.pytorch uses it."""
    workload = boxes_workload(options)
    reference = (opencv_boxes, workload)
    return _cost_table(options, workload, f"{BOXES_SIDE} x {BOXES_SIDE}", reference, "ssd.pytorch")


def _cost_table(
    options: Options, workload: Workload, size: str, reference: tuple[Any, ...], name: str
) -> BenchmarkTable:
    """Measure CPU time per image of our batches and of those of ``reference``."""
    _log.info("data: CPU time, %s", workload.data)
    baseline = f"OpenCV and NumPy, in the manner of {name}"
    loaders = {baseline: reference, "ours": (task_batches, workload)}
    turns, _ = alternate(loaders, options.rounds_or(9), workload.steps)
    samples = {k: [turn.cpu_seconds / turn.images for turn in own] for k, own in turns.items()}
    targets = {"ours": Bound("<=", 1.2)} if workload.data.startswith("voc") else {}
    lines = measurements(samples, baseline, unit="ms", scale=1000, targets=targets)
    title = f"CPU time per image of {workload.title}, {size}"
    notes = [
        "one thread, no workers; decoded, augmented, normalized, in batches; "
        f"a turn: {turns[baseline][-1].images} images"
    ]
    return BenchmarkTable("data", title, baseline, lines, notes=notes)


def _loading_table(
    options: Options,
    workload: Workload,
    title: str,
    loaders: dict[str, tuple[Any, ...]],
    notes: list[str],
    memory: str = "",
) -> BenchmarkTable:
    """Measure epochs of ``loaders``: a function of this module and its arguments, by label."""
    _log.info("data: %s", workload.data)
    baseline = list(loaders)[1]
    turns, peaks = alternate(loaders, options.rounds_or(5), workload.steps)
    lines = measurements(
        image_rates(turns), baseline, unit="images/s", memory=peaks if memory else {}
    )
    notes = [*notes, f"a turn: {turns[baseline][-1].images} images"]
    return BenchmarkTable("data", title, baseline, lines, "higher", memory, notes=notes)


def photos_workload(options: Options) -> tuple[Workload, int]:
    """Return a segmentation workload and the side of its crops.

    Its images are VOC2012's own training images on disk, else the embedded shapes.
    """
    real = not options.quick and is_on_disk("voc_seg", options.root)
    crop = 33 if options.quick else 473 if real else 97
    partial = ("dataset.partial=true", "dataset.sbd=false") if real else ()
    workload = Workload(
        "voc_seg, real images" if real else "the embedded shapes",
        "voc_seg" if real else "shapes_seg",
        "pspnet18",
        options.device.type,
        options.threads,
        options.root,
        batch=8 if options.quick else 16,
        steps=4 if options.quick else None,
        extra=("model.weights=none", f"dataset.crop={crop}", *partial),
    )
    return workload, crop


def boxes_workload(options: Options) -> Workload:
    """Return a detection workload on one thread of the CPU.

    Its images are VOC2007's own training images on disk, else the embedded shapes.
    """
    real = not options.quick and is_on_disk("voc_det", options.root)
    partial = ("dataset.partial=true", "dataset.voc12=false") if real else ()
    return Workload(
        "voc_det, real images" if real else "the embedded shapes",
        "voc_det" if real else "shapes_det",
        "ssd300_vgg16",
        "cpu",
        1,
        options.root,
        batch=8 if options.quick else 16,
        steps=4 if options.quick else None,
        extra=("model.weights=none", *partial),
    )


@dataclass
class _LoadingTurn:
    """A turn that iterates over ``batches(steps)``, or its first ``steps``, and drops them."""

    batches: Callable[[int | None], Iterable[tuple[int, Any]]]
    device: torch.device
    close: Callable[[], None] = lambda: None

    def __call__(self, steps: int | None) -> TurnResult:
        clock, cpu = Clock(), Clock(time.process_time)
        clock.start()
        cpu.start()
        images = sum(number for number, _ in islice(self.batches(steps), steps))
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = clock.stop()
        return TurnResult(images, seconds, seconds, cpu_seconds=cpu.stop())


def task_batches(workload: Workload, *overrides: str) -> _LoadingTurn:
    """Return turns over the batches that run.py trains on.

    A short turn takes the last steps of an epoch, so that no worker prefetches after it.
    """
    parts = builder.build(workload.config(overrides))
    task, epochs = parts.task, count()

    def batches(steps: int | None) -> Iterator[tuple[int, Any]]:
        start = 0 if steps is None else max(0, task.steps_per_epoch - steps)
        return ((len(b), b.inputs) for b in task.train_batches(next(epochs), start))

    return _LoadingTurn(batches, parts.device, task.close)


def torchvision_batches(workload: Workload, workers: int) -> _LoadingTurn:
    """Return turns over torchvision's data set in a DataLoader."""
    images = None if workload.images is None else workload.images[0]
    data = torchvision_dataset(workload.data, workload.root, images)
    return _loader_turn(DataLoader(data, workload.batch, True, num_workers=workers), workload)


def opencv_crops(workload: Workload, crop: int) -> _LoadingTurn:
    """Return turns over crops of photos with masks by OpenCV, in a DataLoader without workers."""
    data = OpenCVPhotos(_photos_root(workload), crop)
    return _loader_turn(DataLoader(data, workload.batch, True, drop_last=True), workload)


def opencv_boxes(workload: Workload) -> _LoadingTurn:
    """Return turns over photos with boxes by OpenCV, in a DataLoader without workers."""
    classes = SHAPE_CLASSES if workload.data == "shapes_det" else VOCBoxes.classes
    data = OpenCVBoxes(_photos_root(workload), BOXES_SIDE, classes)

    def collate(samples: list[Any]) -> tuple[Tensor, Tensor]:
        images, objects = zip(*samples, strict=True)
        return torch.stack(images), torch.cat([torch.from_numpy(rows).float() for rows in objects])

    return _loader_turn(DataLoader(data, workload.batch, True, collate_fn=collate), workload)


def _photos_root(workload: Workload) -> Path:
    embedded = workload.data.startswith("shapes")
    return shapes_root() if embedded else Path(workload.root).expanduser()


def pil_batches(workload: Workload, crop: int, workers: int) -> _LoadingTurn:
    """Return turns over photos in a DataLoader set up as is typical for segmentation."""
    data = Photos(_photos_root(workload), crop)
    pin = workload.device == "cuda"
    loader = DataLoader(
        data, workload.batch, True, num_workers=workers, pin_memory=pin, drop_last=True
    )
    return _loader_turn(loader, workload)


def _loader_turn(loader: DataLoader[Any], workload: Workload) -> _LoadingTurn:
    torch.set_num_threads(workload.threads)
    cv2.setNumThreads(workload.threads)
    device = torch.device(workload.device)

    def batches(_: int | None) -> Iterator[tuple[int, Any]]:
        return ((len(x), (x.to(device), y.to(device))) for x, y in loader)

    return _LoadingTurn(batches, device)
